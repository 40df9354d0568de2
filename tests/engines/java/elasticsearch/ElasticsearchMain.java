import java.io.*;
import java.lang.reflect.*;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.*;
import java.security.*;
import java.util.*;
import java.util.stream.Stream;
import org.elasticsearch.Build;
import org.elasticsearch.common.io.stream.StreamOutput;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.*;
import org.elasticsearch.env.Environment;
import org.elasticsearch.http.HttpServerTransport;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.*;

/**
 * One Elasticsearch 8.19+ or 9.x node in this process, with its jars on the class path instead of a distribution.
 *
 * Arguments: the node's home folder, then settings as key=value (a list as key=[a,b]) and plugins as
 * +ClassName[<ExtendedPlugin][@folder of its jars]; bootstrap.password goes to the keystore.
 * Prints "READY address:port" once HTTP is open. Stops when stdin closes, so also when the parent dies, and removes
 * the home.
 */
public class ElasticsearchMain {
    static final List<String> MODULES =
        List.of("org.elasticsearch.transport.netty4.Netty4Plugin", "EnglishAnalysis", "RootPlugin");

    static volatile Node node;

    public static void main(String[] args) {
        Path home = Paths.get(args[0]).toAbsolutePath();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> closeAndRemove(home)));
        new Thread(ElasticsearchMain::exitWithStdin, "stdin").start();
        try {
            start(home, Arrays.asList(args).subList(1, args.length));
        } catch (Throwable e) {
            e.printStackTrace();
            System.exit(1);
        }
    }

    static void start(Path home, List<String> args) throws Exception {
        for (String folder : List.of("config", "logs", "data", "modules/none", "plugins")) {
            Files.createDirectories(home.resolve(folder));
        }
        Settings.Builder settings = Settings.builder()
            .put("path.home", home.toString())
            .put("path.data", home.resolve("data").toString()).put("path.logs", home.resolve("logs").toString())
            .put("cluster.name", "embedded").put("node.name", "node-1").put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1").put("http.port", "0").put("transport.port", "0")
            .put("cluster.routing.allocation.disk.threshold_enabled", false);
        List<String> plugins = new ArrayList<>(MODULES);
        for (String arg : args) {
            if (arg.startsWith("+")) plugins.add(arg.substring(1));
            else put(settings, arg.split("=", 2));
        }
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            settings.build(), Map.of(), home.resolve("config"), () -> "node-1");
        LogConfigurator.configureESLogging();
        LogConfigurator.configureWithoutConfig(Settings.builder().put("logger.level", "WARN").build());
        node = new Node(environment, load(plugins, home.resolve("modules/none")));
        node.start();
        Method injector = Node.class.getDeclaredMethod("injector");
        injector.setAccessible(true);
        Object instances = injector.invoke(node);
        Method get = instances.getClass().getMethod("getInstance", Class.class);
        get.setAccessible(true);
        HttpServerTransport http = (HttpServerTransport) get.invoke(instances, HttpServerTransport.class);
        System.out.println("READY " + http.boundAddress().publishAddress());
    }

    static void put(Settings.Builder settings, String[] pair) {
        String key = pair[0], value = pair[1];
        if (key.equals("bootstrap.password")) {
            settings.setSecureSettings(new OneSecret(key, value));
        } else if (value.startsWith("[") && value.endsWith("]")) {
            settings.putList(key, value.substring(1, value.length() - 1).split(","));
        } else {
            settings.put(key, value);
        }
    }

    /** What PluginsLoader makes of the folders of a distribution, made of class names instead. */
    static PluginsLoader load(List<String> plugins, Path folder) throws Exception {
        Class<?> layerClass = Class.forName("org.elasticsearch.plugins.PluginsLoader$LoadedPluginLayer");
        Map<String, Object> layers = new LinkedHashMap<>();
        Set<PluginBundle> bundles = new LinkedHashSet<>();
        Map<String, ClassLoader> loaders = new HashMap<>();
        for (String plugin : plugins) {
            String[] jarsAfter = plugin.split("@"), extendedAfter = jarsAfter[0].split("<");
            String className = extendedAfter[0], extended = extendedAfter.length > 1 ? extendedAfter[1] : null;
            ClassLoader loader = ElasticsearchMain.class.getClassLoader();
            if (jarsAfter.length > 1) {
                loader = new PluginClasses(jars(Paths.get(jarsAfter[1])), loader, loaders.get(extended));
            }
            Class<?> type = Class.forName(className, false, loader);
            String name = type.getSimpleName();
            PluginBundle bundle = make(PluginBundle.class, descriptor(name, className, extended), folder);
            bundles.add(bundle);
            loaders.put(name, loader);
            layers.put(name, make(layerClass, bundle, loader, ModuleLayer.boot(), loader, ModuleLayer.boot()));
        }
        return make(PluginsLoader.class, bundles, Set.of(), layers);
    }

    static PluginDescriptor descriptor(String name, String className, String extended) throws Exception {
        List<Object> values = new ArrayList<>(Arrays.asList(name, "class path", "1", Build.current().version(),
            System.getProperty("java.specification.version"), className, null,
            extended == null ? List.of() : List.of(extended),
            false, false, false, false));
        for (Constructor<?> constructor : PluginDescriptor.class.getDeclaredConstructors()) {
            Class<?>[] parameters = constructor.getParameterTypes();
            if (parameters.length == 13) values.add(parameters[12].getEnumConstants()[0]);  // 9.x: a deployment target
        }
        return make(PluginDescriptor.class, values.toArray());
    }

    static <T> T make(Class<T> type, Object... values) throws Exception {
        for (Constructor<?> constructor : type.getDeclaredConstructors()) {
            if (constructor.getParameterCount() != values.length) continue;
            constructor.setAccessible(true);
            return type.cast(constructor.newInstance(values));
        }
        throw new NoSuchMethodException(type + " has no constructor with " + values.length + " parameters");
    }

    static URL[] jars(Path folder) throws IOException {
        List<URL> urls = new ArrayList<>();
        try (DirectoryStream<Path> jars = Files.newDirectoryStream(folder, "*.jar")) {
            for (Path jar : jars) urls.add(jar.toUri().toURL());
        }
        return urls.toArray(new URL[0]);
    }

    /** The classes of the extended plugin are visible, its META-INF/services are not, as in a distribution. */
    static class PluginClasses extends URLClassLoader {
        final ClassLoader extended;

        PluginClasses(URL[] jars, ClassLoader parent, ClassLoader extended) {
            super(jars, parent);
            this.extended = extended;
        }

        @Override protected Class<?> findClass(String name) throws ClassNotFoundException {
            try {
                return super.findClass(name);
            } catch (ClassNotFoundException e) {
                if (extended == null) throw e;
                return extended.loadClass(name);
            }
        }
    }

    /** The keystore of a distribution with one entry: the password of the user "elastic". */
    record OneSecret(String name, String value) implements SecureSettings {
        public boolean isLoaded() { return true; }
        public Set<String> getSettingNames() { return Set.of(name); }
        public SecureString getString(String setting) { return new SecureString(value.toCharArray()); }
        public InputStream getFile(String setting) { return new ByteArrayInputStream(value.getBytes()); }
        public void writeTo(StreamOutput out) { throw new UnsupportedOperationException(); }
        public void close() { }
        public byte[] getSHA256Digest(String setting) {
            try {
                return MessageDigest.getInstance("SHA-256").digest(value.getBytes());
            } catch (NoSuchAlgorithmException e) {
                throw new IllegalStateException(e);
            }
        }
    }

    static void exitWithStdin() {
        try { while (System.in.read() >= 0) { } } catch (IOException e) { e.printStackTrace(); }
        System.exit(0);
    }

    static void closeAndRemove(Path home) {
        try { if (node != null) node.close(); } catch (Exception e) { e.printStackTrace(); }
        try (Stream<Path> files = Files.walk(home)) {
            files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
        } catch (IOException | UncheckedIOException e) { /* the parent removes it too, and may be faster */ }
    }
}
