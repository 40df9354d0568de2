import java.util.List;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.rest.*;
import org.elasticsearch.xcontent.XContentBuilder;

/** Stands in for the module rest-root: GET /, by which clients recognise the server. */
public class RootHandler extends BaseRestHandler {
    @Override public String getName() { return "main_action"; }

    @Override public List<Route> routes() {
        return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
    }

    @Override protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
        Build build = Build.current();
        return channel -> {
            try (XContentBuilder body = channel.newBuilder()) {
                body.startObject().field("name", "node-1").field("cluster_name", "embedded")
                    .field("cluster_uuid", "embedded-node")
                    .startObject("version")
                    .field("number", build.qualifiedVersion()).field("build_flavor", "default")
                    .field("build_type", build.type().displayName())
                    .field("build_hash", build.hash()).field("build_date", build.date())
                    .field("build_snapshot", build.isSnapshot())
                    .field("lucene_version", org.apache.lucene.util.Version.LATEST.toString())
                    .field("minimum_wire_compatibility_version", build.minWireCompatVersion())
                    .field("minimum_index_compatibility_version", build.minIndexCompatVersion())
                    .endObject().field("tagline", "You Know, for Search").endObject();
                channel.sendResponse(new RestResponse(RestStatus.OK, body));
            }
        };
    }
}
