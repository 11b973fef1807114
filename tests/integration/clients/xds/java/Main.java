import com.google.protobuf.Empty;
import com.google.protobuf.StringValue;
import io.grpc.CallOptions;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.stub.ClientCalls;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Phaser;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

/** grpc-java with its own xDS client. What it does: README.md beside. */
public class Main {
  private static final long CALL_S = 5;
  private static final long WAIT_S = 30;
  private static final long LOST_S = 3;
  private static final int AT_A_TIME = 8;
  private static final MethodDescriptor<Empty, StringValue> WHO =
      MethodDescriptor.<Empty, StringValue>newBuilder()
          .setType(MethodDescriptor.MethodType.UNARY)
          .setFullMethodName("registry.test.Backend/Who")
          .setRequestMarshaller(ProtoUtils.marshaller(Empty.getDefaultInstance()))
          .setResponseMarshaller(ProtoUtils.marshaller(StringValue.getDefaultInstance()))
          .build();

  private final ExecutorService threads = Executors.newCachedThreadPool();
  private final ManagedChannel channel;
  private Load load;

  private Main(ManagedChannel channel) {
    this.channel = channel;
  }

  /** What came of some calls. */
  private static class Tally {
    private final Map<String, Integer> answers = new TreeMap<>();
    private int failed;
    private String text = "";
    private long last = System.nanoTime();
    private long longest;

    synchronized void answered(String name) {
      answers.merge(name, 1, Integer::sum);
      long now = System.nanoTime();
      longest = Math.max(longest, now - last);
      last = now;
    }

    synchronized void failed(Exception error) {
      failed++;
      text = error.toString().replace("\n", " ");
    }

    synchronized void say() {
      String words = answers.entrySet().stream().map(it -> it.getKey() + "=" + it.getValue()).collect(Collectors.joining(" "));
      System.out.println(String.join("\t", words, "" + failed, "" + TimeUnit.NANOSECONDS.toMillis(longest), text));
    }
  }

  /** Calls at a rate until it is stopped. */
  private class Load {
    private final Tally tally = new Tally();
    private final Phaser underWay = new Phaser(1);
    private final ScheduledExecutorService pace = Executors.newSingleThreadScheduledExecutor();

    Load(int rate) {
      pace.scheduleAtFixedRate(this::begin, 0, 1_000_000 / rate, TimeUnit.MICROSECONDS);
    }

    private void begin() {
      underWay.register();
      threads.execute(() -> {
        call(tally, CALL_S, CallOptions.DEFAULT);
        underWay.arriveAndDeregister();
      });
    }

    Tally stop() throws InterruptedException {
      pace.shutdown();
      pace.awaitTermination(WAIT_S, TimeUnit.SECONDS);
      underWay.arriveAndAwaitAdvance();
      return tally;
    }
  }

  private void call(Tally tally, long limitS, CallOptions options) {
    try {
      Future<StringValue> answer = ClientCalls.futureUnaryCall(channel.newCall(WHO, options.withDeadlineAfter(limitS, TimeUnit.SECONDS)), Empty.getDefaultInstance());
      // It was seen to lose calls when outlier detection came or went: they end neither with an answer nor at their deadline.
      tally.answered(answer.get(limitS + LOST_S, TimeUnit.SECONDS).getValue());
    } catch (Exception error) { // whatever it is: who waits for all calls waits for this one
      tally.failed(error);
    }
  }

  private Tally waited() {
    Tally tally = new Tally();
    call(tally, WAIT_S, CallOptions.DEFAULT.withWaitForReady());
    return tally;
  }

  private Tally many(int count) {
    Tally tally = new Tally();
    AtomicInteger due = new AtomicInteger(count);
    Phaser callers = new Phaser(AT_A_TIME + 1);
    for (int i = 0; i < AT_A_TIME; i++) {
      threads.execute(() -> {
        while (due.getAndDecrement() > 0) {
          call(tally, CALL_S, CallOptions.DEFAULT);
        }
        callers.arriveAndDeregister();
      });
    }
    callers.arriveAndAwaitAdvance();
    return tally;
  }

  private Tally done(String word, int number) throws InterruptedException {
    switch (word) {
      case "wait":
        return waited();
      case "call":
        return many(number);
      case "load":
        load = new Load(number);
        return new Tally();
      default:
        return load.stop();
    }
  }

  public static void main(String[] arguments) throws Exception {
    Main main = new Main(Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build());
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.split(" ");
      main.done(words[0], words.length > 1 ? Integer.parseInt(words[1]) : 0).say();
    }
    System.exit(0);
  }
}
