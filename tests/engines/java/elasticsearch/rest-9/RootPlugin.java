import java.util.*;
import java.util.function.*;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.plugins.*;
import org.elasticsearch.rest.RestHandler;

/** Registers GET / with the method signature of Elasticsearch 9. */
public class RootPlugin extends Plugin implements ActionPlugin {
    @Override public Collection<RestHandler> getRestHandlers(
            RestHandlersServices services, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) {
        return List.of(new RootHandler());
    }
}
