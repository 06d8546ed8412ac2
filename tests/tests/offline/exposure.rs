//! `cofferdam exposure`.

use serde_json::json;

use crate::Folder;

#[test]
fn the_most_exposed_workload_comes_first_with_the_parts_of_its_score() {
    let folder = Folder::shop();
    let report = folder.json(0, "exposure.json", &["exposure", "."]);
    let workloads = report["workloads"].as_array().expect("a list");
    let ids: Vec<&str> = workloads
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["shop/web", "shop/db"]);
    let sum = |one: &serde_json::Value| -> u64 {
        let points = one["points"].as_array().expect("a list").iter();
        points.map(|part| part["points"].as_u64().unwrap()).sum()
    };
    for one in workloads {
        assert_eq!(one["score"], sum(one));
    }
    assert_eq!(workloads[0]["not_isolated"], json!(["ingress", "egress"]));
    assert_eq!(workloads[1]["not_isolated"], json!(["egress"]));
    assert_eq!(
        workloads[1]["reached_by"],
        json!([{"kind": "labels", "who": "pods with app=web of namespaces with kubernetes.io/metadata.name=shop",
                "namespace": "shop", "ports": "tcp/5432"}])
    );
    let text = folder.said(0, &["exposure", ".", "--workload", "shop/db"]);
    assert!(
        text.contains("shop/db\n      not isolated: egress\n      <- pods with app=web"),
        "{text}"
    );
    assert!(!text.contains("shop/web"), "{text}");
    let wrong = folder.complaint(&["exposure", ".", "--workload", "shop/bd"]);
    assert!(wrong.contains("did you mean `shop/db`?"), "{wrong}");
}
