import java.io.DataInputStream;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.UnresolvedReferenceException;
import jdk.jshell.execution.LocalExecutionControlProvider;
import sun.misc.Signal;

/** The program of Java kernels: runs cells in JShell, within this process. program_kernel.py says how it speaks. */
public final class Kernel {
  private static final List<String> IMPORTS =
      List.of("java.io.*", "java.math.*", "java.net.*", "java.nio.file.*", "java.time.*", "java.util.*",
          "java.util.concurrent.*", "java.util.function.*", "java.util.regex.*", "java.util.stream.*");

  private static final int STOP_EVERY_MS = 20;

  private final DataInputStream orders;
  private final OutputStream replies;
  private final JShell shell;
  /** Held where a cell begins or ends, and where it is stopped, so that no stop meets the next one. */
  private final Object turn = new Object();
  private long cell;
  private boolean runs;
  private volatile boolean isInterrupted;

  private Kernel(String ordersPath, String repliesPath) throws IOException {
    orders = new DataInputStream(new FileInputStream(ordersPath));
    replies = new FileOutputStream(repliesPath);
    System.setOut(new PrintStream(new Output('O'), true, StandardCharsets.UTF_8));
    System.setErr(new PrintStream(new Output('E'), true, StandardCharsets.UTF_8));
    shell = JShell.builder()
        .executionEngine(new LocalExecutionControlProvider(), Map.of())
        .out(System.out)
        .err(System.err)
        .build();
    IMPORTS.forEach(name -> shell.eval("import " + name + ";"));
    shell.eval("1 + 1");
    Signal.handle(new Signal("INT"), signal -> interrupt());
  }

  public static void main(String[] arguments) throws IOException {
    var kernel = new Kernel(arguments[0], arguments[1]);
    kernel.send('D');
    kernel.serve();
  }

  private void serve() throws IOException {
    while (true) {
      int length = orders.readInt();
      char kind = (char) orders.readByte();
      String[] texts = new String(orders.readNBytes(length), StandardCharsets.UTF_8).split("\0", 2);
      switch (kind) {
        case 'C' -> run(texts[0]);
        case 'V' -> System.setProperty(texts[0], texts[1]);
        case 'U' -> System.clearProperty(texts[0]);
        case 'F' -> System.setProperty("user.dir", texts[0]);
        default -> {
          // Java seeds its generators from the system.
        }
      }
      send('D');
    }
  }

  private void run(String code) throws IOException {
    synchronized (turn) {
      cell++;
      isInterrupted = false;
      runs = true;
    }
    try {
      SnippetEvent last = null;
      for (String source : snippetsOf(code)) {
        for (SnippetEvent event : shell.eval(source)) {
          // The others are snippets that this one changed.
          if (event.causeSnippet() != null) continue;
          last = event;
          if (isInterrupted || !succeeded(event)) return;
        }
      }
      if (last != null) show(last);
    } finally {
      System.out.flush();
      System.err.flush();
      synchronized (turn) {
        runs = false;
      }
      if (isInterrupted) send('X', "KeyboardInterrupt", "", "");
    }
  }

  /** The snippets of a cell. One that cannot be Java comes last, and its evaluation says why. */
  private List<String> snippetsOf(String code) {
    var snippets = new ArrayList<String>();
    SourceCodeAnalysis analysis = shell.sourceCodeAnalysis();
    String rest = code;
    while (!rest.isBlank()) {
      SourceCodeAnalysis.CompletionInfo info = analysis.analyzeCompletion(rest);
      if (info.completeness() == Completeness.EMPTY) break;
      if (!info.completeness().isComplete()) {
        snippets.add(rest);
        break;
      }
      snippets.add(info.source());
      rest = info.remaining();
    }
    return snippets;
  }

  /** Whether a snippet did what it should; sends its error otherwise. */
  private boolean succeeded(SnippetEvent event) throws IOException {
    if (event.status() == Snippet.Status.REJECTED) {
      List<String> problems = shell.diagnostics(event.snippet())
          .map(problem -> problem.getMessage(Locale.ENGLISH))
          .collect(Collectors.toList());
      String first = problems.isEmpty() ? "the code is not complete" : problems.get(0);
      send('X', "CompilationException", first, String.join("\n", problems) + "\n" + event.snippet().source());
      return false;
    }
    if (event.exception() == null) return true;
    if (isInterrupted) return false;
    String name = event.exception().getClass().getName();
    String message = event.exception().getMessage();
    if (event.exception() instanceof EvalException thrown) {
      name = thrown.getExceptionClassName();
    } else if (event.exception() instanceof UnresolvedReferenceException unresolved) {
      message = shell.unresolvedDependencies(unresolved.getSnippet()).collect(Collectors.joining(", ")) + " is missing";
    }
    String value = message == null ? name : name + ", " + message;
    var traceback = new StringBuilder(message == null ? name : name + ": " + message);
    for (StackTraceElement element : event.exception().getStackTrace()) traceback.append("\n    at ").append(element);
    send('X', name.substring(name.lastIndexOf('.') + 1), value, traceback.toString());
    return false;
  }

  private void show(SnippetEvent event) throws IOException {
    boolean isValue = event.snippet().kind() == Snippet.Kind.EXPRESSION
        || event.snippet().subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    if (isValue && event.value() != null && !event.value().equals("null")) {
      send('R', "1", "text/plain", event.value());
    }
  }

  /** Stops the cell. It is told again and again, because a snippet that is being compiled has nothing to stop yet. */
  private void interrupt() {
    long interrupted;
    synchronized (turn) {
      if (!runs || isInterrupted) return;
      isInterrupted = true;
      interrupted = cell;
    }
    while (stop(interrupted)) {
      try {
        Thread.sleep(STOP_EVERY_MS);
      } catch (InterruptedException over) {
        return;
      }
    }
  }

  /** False when the cell has ended. */
  private boolean stop(long stopped) {
    synchronized (turn) {
      if (!runs || cell != stopped) return false;
      shell.stop();
      return true;
    }
  }

  private void send(char kind, String... texts) throws IOException {
    sendBytes(kind, String.join("\0", texts).getBytes(StandardCharsets.UTF_8));
  }

  private void sendBytes(char kind, byte[] payload) throws IOException {
    byte[] frame = ByteBuffer.allocate(5 + payload.length).putInt(payload.length).put((byte) kind).put(payload).array();
    synchronized (replies) {
      replies.write(frame);
    }
  }

  /** A stream of the cell. A line and its end are two events, as clients of E2B know them from Java. */
  private final class Output extends OutputStream {
    private final char kind;

    Output(char kind) {
      this.kind = kind;
    }

    @Override
    public void write(int single) throws IOException {
      write(new byte[] {(byte) single}, 0, 1);
    }

    @Override
    public void write(byte[] bytes, int offset, int length) throws IOException {
      boolean endsLine = length > 1 && bytes[offset + length - 1] == '\n';
      int first = endsLine ? length - 1 : length;
      if (first > 0) sendBytes(kind, java.util.Arrays.copyOfRange(bytes, offset, offset + first));
      if (endsLine) sendBytes(kind, new byte[] {'\n'});
    }
  }
}
