import com.google.protobuf.Duration;
import com.google.protobuf.FieldMask;
import com.google.rpc.BadRequest;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import io.grpcregistry.v1.Departure;
import io.grpcregistry.v1.DeregisterRequest;
import io.grpcregistry.v1.GetRequest;
import io.grpcregistry.v1.Instance;
import io.grpcregistry.v1.InstanceKey;
import io.grpcregistry.v1.KeepAliveRequest;
import io.grpcregistry.v1.KeepAliveResponse;
import io.grpcregistry.v1.ListRequest;
import io.grpcregistry.v1.RegisterRequest;
import io.grpcregistry.v1.RegistryGrpc;
import io.grpcregistry.v1.UpdateRequest;
import io.grpcregistry.v1.WatchRequest;
import io.grpcregistry.v1.WatchResponse;
import java.util.Collections;
import java.util.Iterator;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A client in Java, as its users have it: grpc-java, and stubs of protoc-gen-grpc-java. What it does: README.md beside. */
public class Main {
  private static final long CALL_S = 30;
  private static final long SHORT_MS = 300;

  private final RegistryGrpc.RegistryBlockingStub registry;
  private final RegistryGrpc.RegistryStub streams;
  private final InstanceKey key;

  private Main(io.grpc.Channel channel, String namespace) {
    registry = RegistryGrpc.newBlockingStub(channel).withDeadlineAfter(CALL_S, TimeUnit.SECONDS);
    streams = RegistryGrpc.newStub(channel).withDeadlineAfter(CALL_S, TimeUnit.SECONDS);
    key = InstanceKey.newBuilder().setNamespace(namespace).setService("player").setId("one").build();
  }

  public static void main(String[] arguments) throws Exception {
    var channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
    try {
      new Main(channel, arguments[1]).run();
    } finally {
      channel.shutdownNow().awaitTermination(CALL_S, TimeUnit.SECONDS);
    }
  }

  private void run() throws Exception {
    String lease = register();
    keepAlive(lease);
    Iterator<WatchResponse> watch = registry.watch(watching("player"));
    WatchResponse first = next(watch, false);
    say("watch reset " + first.getReset() + " upserts " + first.getUpsertsCount());
    update();
    WatchResponse changed = next(watch, false);
    say("watch reset " + changed.getReset() + " weight " + changed.getUpserts(0).getWeight());
    list(changed.getChecksum());
    say("watch bookmark " + next(watch, true).getBookmark());
    deadline();
    cancelled();
    big();
    refused();
    say("left " + registry.deregister(DeregisterRequest.newBuilder().setLeaseId(lease).build()).getRemoved());
    Departure gone = next(watch, false).getRemoved(0);
    say("watch removed " + gone.getId() + " " + gone.getCause());
    try {
      registry.get(GetRequest.newBuilder().setKey(key).build());
    } catch (StatusRuntimeException error) {
      say("gone " + error.getStatus().getCode());
    }
  }

  /** The next step that is a bookmark, or is none: on a machine that is busy one may come between any two. */
  private static WatchResponse next(Iterator<WatchResponse> watch, boolean bookmark) {
    while (true) {
      WatchResponse step = watch.next();
      if (step.getBookmark() == bookmark) {
        return step;
      }
    }
  }

  /** The error that a stream ends with. */
  private static StatusRuntimeException end(Iterator<WatchResponse> watch) {
    try {
      while (true) {
        watch.next();
      }
    } catch (StatusRuntimeException error) {
      return error;
    }
  }

  private static void say(String text) {
    System.out.println(text);
  }

  private Instance.Builder instance() {
    return Instance.newBuilder().setNamespace(key.getNamespace()).setService(key.getService()).setId(key.getId());
  }

  private WatchRequest watching(String service) {
    return WatchRequest.newBuilder().setNamespace(key.getNamespace()).addServices(service).build();
  }

  private String register() {
    var ttl = Duration.newBuilder().setSeconds(CALL_S);
    var request = RegisterRequest.newBuilder().setInstance(instance().setHost("10.0.0.5").setPort(8001)).setTtl(ttl);
    var done = registry.register(request.build());
    say("registered " + done.getInstance().getId() + " ttl " + done.getTtl().getSeconds());
    return done.getLeaseId();
  }

  /** Two requests on one stream, which then ends from this side. */
  private void keepAlive(String lease) throws InterruptedException {
    var answers = new Answers();
    var requests = streams.keepAlive(answers);
    for (String id : new String[] {lease, "nobody"}) {
      requests.onNext(KeepAliveRequest.newBuilder().addLeaseIds(id).build());
      say("renewal " + ((KeepAliveResponse) answers.next()).getRenewals(0).getState());
    }
    requests.onCompleted();
    say("renewals end " + answers.next().equals("completed"));
  }

  /** Packed by gzip on its way there. */
  private void update() {
    var mask = FieldMask.newBuilder().addPaths("weight");
    var request = UpdateRequest.newBuilder().setInstance(instance().setWeight(7)).setUpdateMask(mask);
    registry.withCompression("gzip").update(request.build());
  }

  private void list(long checksum) {
    var request = ListRequest.newBuilder().setNamespace(key.getNamespace()).setService(key.getService());
    var page = registry.list(request.build());
    say("listed " + page.getInstancesCount() + " same checksum " + (page.getChecksum() == checksum));
  }

  /** A stream that outlasts its deadline. */
  private void deadline() {
    var steps = registry.withDeadlineAfter(SHORT_MS, TimeUnit.MILLISECONDS).watch(watching("nobody"));
    say("deadline " + end(steps).getStatus().getCode());
  }

  private void cancelled() throws Exception {
    try (var context = Context.current().withCancellation()) {
      Iterator<WatchResponse> steps = context.call(() -> registry.watch(watching("nobody")));
      next(steps, false);
      context.cancel(null);
      say("cancelled " + end(steps).getStatus().getCode());
    }
  }

  /** About 900 KB there and more back, and then more than the server takes. */
  private void big() throws InterruptedException {
    for (int length : new int[] {90, 120}) {
      var answers = new Answers();
      var requests = streams.keepAlive(answers);
      var ids = Collections.nCopies(10_000, "x".repeat(length));
      requests.onNext(KeepAliveRequest.newBuilder().addAllLeaseIds(ids).build());
      if (answers.next() instanceof KeepAliveResponse answer) {
        say("big " + answer.getRenewalsCount() + " " + answer.getRenewals(9_999).getState());
        requests.onCompleted();
      } else {
        say("too big " + answers.code());
      }
    }
  }

  private void refused() throws Exception {
    try {
      registry.register(RegisterRequest.newBuilder().setInstance(instance().setHost("10.0.0.5").setPort(70_000)).build());
    } catch (StatusRuntimeException error) {
      var request = StatusProto.fromThrowable(error).getDetails(0).unpack(BadRequest.class);
      say("refused " + error.getStatus().getCode() + " " + request.getFieldViolations(0).getField());
    }
  }

  /** What a stream answers, one by one; how it ended is a text. */
  private static class Answers implements StreamObserver<KeepAliveResponse> {
    private final BlockingQueue<Object> said = new LinkedBlockingQueue<>();
    private volatile Throwable failure;

    Object next() throws InterruptedException {
      return said.poll(CALL_S, TimeUnit.SECONDS);
    }

    Object code() {
      return io.grpc.Status.fromThrowable(failure).getCode();
    }

    @Override
    public void onNext(KeepAliveResponse answer) {
      said.add(answer);
    }

    @Override
    public void onError(Throwable error) {
      failure = error;
      said.add("failed");
    }

    @Override
    public void onCompleted() {
      said.add("completed");
    }
  }
}
