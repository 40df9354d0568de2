import java.io.IOException;
import java.lang.reflect.Constructor;
import java.nio.file.*;
import java.util.*;
import java.util.stream.Stream;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.http.HttpServerTransport;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;

/**
 * One OpenSearch 2.x or 3.x node in this process, with all its jars on the class path.
 *
 * Arguments: the node's home folder, then settings as key=value (a list as key=[a,b]) and plugins as +ClassName.
 * Prints "READY address:port" once HTTP is open. Stops when stdin closes, so also when the parent dies, and removes
 * the home.
 */
public class OpenSearchMain {
    /** OpenSearch 3 names its own ones ...ModulePlugin, OpenSearch 2 ...Plugin. */
    static final List<String> MODULES = List.of(
        "org.opensearch.transport.Netty4", "org.opensearch.analysis.common.CommonAnalysis",
        "org.opensearch.join.ParentJoin",
        "org.opensearch.index.mapper.MapperExtras", "org.opensearch.percolator.Percolator",
        "org.opensearch.index.rankeval.RankEval",
        "org.opensearch.index.reindex.Reindex", "org.opensearch.script.mustache.Mustache",
        "org.opensearch.search.aggregations.matrix.MatrixAggregation", "org.opensearch.painless.Painless",
        "org.opensearch.script.expression.Expression", "org.opensearch.ingest.common.IngestCommon",
        "org.opensearch.geo.Geo");

    static volatile Node node;

    public static void main(String[] args) {
        Path home = Paths.get(args[0]).toAbsolutePath();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> closeAndRemove(home)));
        new Thread(OpenSearchMain::exitWithStdin, "stdin").start();
        try {
            start(home, Arrays.asList(args).subList(1, args.length));
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1);
        }
    }

    static void start(Path home, List<String> args) throws Exception {
        Settings.Builder settings = Settings.builder()
            .put("path.home", home.toString())
            .put("path.data", home.resolve("data").toString()).put("path.logs", home.resolve("logs").toString())
            .put("cluster.name", "embedded").put("node.name", "node-1").put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1").put("http.port", "0").put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        List<Class<?>> plugins = new ArrayList<>();
        for (String module : MODULES) plugins.add(module(module));
        for (String arg : args) {
            if (arg.startsWith("+")) plugins.add(Class.forName(arg.substring(1)));
            else put(settings, arg.split("=", 2));
        }
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            settings.build(), Map.of(), home.resolve("config"), () -> "node-1");
        node = node(environment, plugins);
        node.start();
        HttpServerTransport http = node.injector().getInstance(HttpServerTransport.class);
        System.out.println("READY " + http.boundAddress().publishAddress());
    }

    static Class<?> module(String name) throws ClassNotFoundException {
        try {
            return Class.forName(name + "ModulePlugin");
        } catch (ClassNotFoundException e) {
            return Class.forName(name + "Plugin");
        }
    }

    static void put(Settings.Builder settings, String[] pair) {
        String value = pair[1];
        if (value.startsWith("[") && value.endsWith("]")) {
            settings.putList(pair[0], value.substring(1, value.length() - 1).split(","));
        } else {
            settings.put(pair[0], value);
        }
    }

    /** The constructor for tests: it takes plugins from the class path, as PluginInfo in 3.x and as Class in 2.x. */
    static Node node(Environment environment, List<Class<?>> plugins) throws Exception {
        List<Object> described = new ArrayList<>();
        for (Class<?> plugin : plugins) {
            String name = plugin.getName();
            described.add(Version.CURRENT.major < 3 ? plugin
                : new PluginInfo(name, "class path", "1", Version.CURRENT, "21", name, null, List.<String>of(), false));
        }
        Constructor<Node> constructor =
            Node.class.getDeclaredConstructor(Environment.class, Collection.class, boolean.class);
        constructor.setAccessible(true);
        return constructor.newInstance(environment, described, true);
    }

    static void exitWithStdin() {
        try { while (System.in.read() >= 0) { } } catch (IOException e) { e.printStackTrace(); }
        System.exit(0);
    }

    static void closeAndRemove(Path home) {
        try { if (node != null) node.close(); } catch (Exception e) { e.printStackTrace(); }
        try (Stream<Path> files = Files.walk(home)) {
            files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
        } catch (IOException | java.io.UncheckedIOException e) { /* the parent removes it too, and may be faster */ }
    }
}
