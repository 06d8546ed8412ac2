//! `cofferdam explain`, answered by an agent about what it has in force.

use cofferdam_tests::skip::Feature;
use cofferdam_tests::skip_unless;
use cofferdam_tests::world::Wiring;

use super::reports::assert_valid;
use super::scene::{DB_FROM_WEB, Scene};

#[test]
fn the_agent_explains_what_it_has_in_force() {
    skip_unless!(Feature::NetworkNamespaces);
    let scene = Scene::enforced(Wiring::Ptp, DB_FROM_WEB);
    let explain = |from: &str, port: &str| {
        let arguments = ["explain", "--from", from, "--to", "shop/db", "--port", port];
        scene
            .agent
            .cli(&[&arguments[..], &["--format", "json"]].concat())
    };
    // Labels that only the call that added the endpoint knows.
    let allowed = explain("shop/web", "tcp/5432");
    assert!(allowed.status.success(), "{allowed:?}");
    let allowed = assert_valid("explain.json", &allowed.stdout);
    assert_eq!(allowed["verdict"], "allow");
    assert_eq!(allowed["ingress"]["rule"], allowed["walk"][0]["rule"]);
    let denied = assert_valid("explain.json", &explain("shop/web", "tcp/22").stdout);
    assert_eq!(denied["verdict"], "deny");
    assert_eq!(denied["nearest"]["missed"][0], "port");
    // The endpoint's own node is the agent's.
    let node = assert_valid("explain.json", &explain("node/n1", "tcp/22").stdout);
    assert_eq!(node["ingress"]["reason"], "own_node");
    let slip = explain("shop/webb", "tcp/22");
    assert_eq!(slip.status.code(), Some(2));
    let told = String::from_utf8_lossy(&slip.stderr);
    assert!(told.contains("did you mean `shop/web`?"), "{told}");
}
