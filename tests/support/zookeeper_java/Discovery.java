import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.TreeMap;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryOneTime;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;

/** Curator's service discovery by lines: `register SERVICE ID HOST PORT`, `unregister SERVICE ID`, `list SERVICE`. */
public class Discovery {
    public static void main(String[] args) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(args[0], 6000, 3000, new RetryOneTime(100));
        client.start();
        ServiceDiscovery<Object> discovery =
                ServiceDiscoveryBuilder.builder(Object.class).client(client).basePath(args[1]).build();
        discovery.start();
        TreeMap<String, ServiceInstance<Object>> mine = new TreeMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            switch (words[0]) {
                case "register" -> {
                    ServiceInstance<Object> instance = ServiceInstance.builder()
                            .name(words[1]).id(words[2]).address(words[3]).port(Integer.parseInt(words[4])).build();
                    discovery.registerService(instance);
                    mine.put(words[1] + " " + words[2], instance);
                }
                case "unregister" -> discovery.unregisterService(mine.remove(words[1] + " " + words[2]));
                default -> {
                    TreeMap<String, String> found = new TreeMap<>();
                    for (ServiceInstance<Object> it : discovery.queryForInstances(words[1])) {
                        found.put(it.getId(), it.getAddress() + " " + it.getPort() + " " + it.isEnabled()
                                + " " + it.getServiceType() + " " + it.getPayload());
                    }
                    found.forEach((id, rest) -> System.out.println(id + " " + rest));
                }
            }
            System.out.println("done");
        }
        discovery.close();
        client.close();
    }
}
