//! The picture in one page that loads nothing: pan, zoom, search, hide namespaces.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use cofferdam_answers::graph::GraphReport;

use super::svg::{escaped, picture};

/// Script of the page; in a file of its own, so that editors know its language.
const SCRIPT: &str = include_str!("page.js");

const STYLE: &str = "\
body{margin:0;font:14px system-ui,sans-serif;display:flex;height:100vh;color:#111}\
nav{width:230px;padding:12px;overflow:auto;border-right:1px solid #ccc}\
main{flex:1;overflow:hidden;cursor:grab}main svg{width:100%;height:100%}\
nav input[type=search]{width:100%;box-sizing:border-box}\
nav label{display:block;margin:4px 0}\
.hidden{display:none}.faint{opacity:.15}";

pub(super) fn page(report: &GraphReport) -> String {
    let namespaces: BTreeSet<&str> = report
        .nodes
        .iter()
        .filter_map(|node| node.namespace.as_deref())
        .collect();
    let mut boxes = String::new();
    for namespace in namespaces {
        let name = escaped(namespace);
        writeln!(
            boxes,
            "<label><input type=\"checkbox\" checked data-hides=\"{name}\"> {name}</label>"
        )
        .expect("writing to a string");
    }
    let counts = format!(
        "{} ends, {} connections",
        report.nodes.len(),
        report.edges.len()
    );
    let picture = picture(report);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>Who reaches whom</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<nav>\n\
         <p>{counts}</p>\n<input type=\"search\" id=\"search\" placeholder=\"Search\" \
         aria-label=\"Search for an end or a port\">\n\
         <p>Drag to move, wheel to zoom. Boxes are workloads, hexagons nodes, ellipses outside \
         addresses. Thick edges with + are added, dashed edges with - removed.</p>\n\
         <fieldset><legend>Namespaces</legend>\n{boxes}</fieldset>\n</nav>\n<main>\n{picture}\
         </main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}
