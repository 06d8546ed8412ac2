//! Pages lead to each other: no link leads nowhere, and every page is found from the index.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The repository's own pages, by path.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["", "docs", "docs/design"].map(|name| root.join(name));
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

/// The text outside fenced blocks.
fn prose(page: &str) -> String {
    let mut is_fenced = false;
    let lines = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Targets of links, without those on other sites.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .filter(|target| !target.contains("://"))
        .collect()
}

/// The anchors of a page's headings, as hosts of repositories make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text
                .chars()
                .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_link_in_a_page_leads_somewhere() {
    let mut tried = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).expect("a page");
        for link in links(&page) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = path.parent().expect("a folder");
            let target = match target {
                "" => path.clone(),
                target => folder.join(target),
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !anchor.is_empty() && target.is_file() {
                let anchors = anchors(&fs::read_to_string(&target).expect("a page"));
                assert!(
                    anchors.contains(anchor),
                    "{}: {link}: {anchors:?}",
                    path.display()
                );
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn every_page_is_found_from_the_index() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let index = fs::read_to_string(docs.join("index.md")).expect("a page");
    let named: BTreeSet<PathBuf> = (links(&index).into_iter())
        .filter_map(|link| docs.join(link.split('#').next()?).canonicalize().ok())
        .collect();
    for path in pages() {
        let path = path.canonicalize().expect("a page");
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if ["index.md", "CHANGELOG.md"].contains(&name.as_str()) {
            continue;
        }
        assert!(
            named.contains(&path),
            "docs/index.md does not name {}",
            path.display()
        );
    }
}
