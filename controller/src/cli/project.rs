//! Reading of a repository: files by paths and patterns, and what among them is no manifest.
//!
//! Most files of a repository are none: values of charts, settings of other programs, patches
//! and templates that are yet to be rendered. They are passed over and counted, and the
//! folders of charts and overlays are named with the command that renders them.
//!
//! Invariant: a path that is given is read, whatever its name and whatever is left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cofferdam_documents::{
    Assembled, Content, Document, Glob, MAX_FILE, Repository, Source, SourceFile, Strictness, Why,
    assemble, assemble_layers, find_in_repository, read_stream,
};
use cofferdam_reach::{PodNetwork, PodNetworks};
use cofferdam_syntax::yaml::{self, Node, Value};

use super::cluster::{ClusterArgs, put_beside};
use super::etcd;
use crate::output::{LookedAt, PassedOver, Renderer, Unrendered};

/// Standard input among paths.
const STDIN: &str = "-";

/// Stack of a thread that reads files, in bytes: that of the first thread.
const STACK: usize = 8 << 20;

/// Names of files that make a folder one of kustomize.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Name of the file that makes a folder a chart of Helm.
const CHART: &str = "Chart.yaml";

/// Keys of a kustomization with files that are no manifests.
const PARTS: [&str; 8] = [
    "patches",
    "patchesStrategicMerge",
    "patchesJson6902",
    "replacements",
    "transformers",
    "generators",
    "configurations",
    "crds",
];

#[derive(Debug, Clone, Default, Args)]
pub(super) struct ReadArgs {
    /// Leaves files and directories out, by a pattern as `.gitignore` has them; repeat it for
    /// several. `.cofferdamignore` files hold such patterns, one a line.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Takes files that are no Kubernetes objects for errors, as an agent does.
    #[arg(long)]
    strict: bool,
}

impl ReadArgs {
    /// Returns `true` if what is passed over otherwise is an error.
    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Strictness that is asked for.
    pub(super) fn strictness(&self) -> Strictness {
        match self.strict {
            true => Strictness::Strict,
            false => Strictness::Lenient,
        }
    }
}

/// Networks of pods that documents give no address.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PodArgs {
    /// The network that pods without an address in the documents are in, `10.244.0.0/16`;
    /// repeat it for several, and for the other family. Without any, all private addresses may
    /// be a pod's.
    #[arg(long = "pod-cidr", value_name = "CIDR")]
    networks: Vec<PodNetwork>,
}

impl PodArgs {
    pub(super) fn networks(&self) -> PodNetworks {
        PodNetworks(self.networks.clone())
    }
}

/// The files of a repository.
pub(super) struct Project {
    pub(super) sources: Vec<Source>,
    pub(super) passed_over: PassedOver,
    pub(super) unrendered: Vec<Unrendered>,
    strictness: Strictness,
}

impl Project {
    /// Reads paths, and a cluster where that is asked for.
    pub(super) fn read_with(
        paths: &[PathBuf],
        args: &ReadArgs,
        cluster: &ClusterArgs,
    ) -> Result<Self> {
        let objects = cluster.read()?;
        let mut project = if paths.is_empty() {
            Self {
                sources: Vec::new(),
                passed_over: PassedOver::default(),
                unrendered: Vec::new(),
                strictness: args.strictness(),
            }
        } else {
            Self::read(paths, args)?
        };
        put_beside(&mut project.sources, objects);
        Ok(project)
    }

    /// Reads files, directories, an etcd where a path is its address, and standard input where a
    /// path is `-`.
    pub(super) fn read(paths: &[PathBuf], args: &ReadArgs) -> Result<Self> {
        Self::read_beside(paths, args, &KnownTexts::new())
    }

    /// The same, where these texts have been read before.
    pub(super) fn read_beside(
        paths: &[PathBuf],
        args: &ReadArgs,
        known: &KnownTexts<'_>,
    ) -> Result<Self> {
        let is_stdin = |path: &&PathBuf| path.as_os_str() == STDIN;
        let (mut sources, local) = etcd::read(paths)?;
        let paths = &local;
        let files: Vec<&PathBuf> = paths.iter().filter(|path| !is_stdin(path)).collect();
        let globs: Vec<Glob> = (args.exclude.iter())
            .filter_map(|line| Glob::parse(line))
            .collect();
        let found = find_in_repository(&files, &globs)?;
        let strictness = args.strictness();
        if let (Strictness::Strict, Some(unread)) = (strictness, found.unread.first()) {
            bail!("{} leads to no file: remove it", unread.display());
        }
        let layout = match strictness {
            Strictness::Lenient => Layout::of(&found),
            Strictness::Strict => Layout::default(),
        };
        let mut passed_over = PassedOver {
            left_out: found.left_out as u64,
            unreadable: found.unread.len() as u64,
            ..PassedOver::default()
        };
        let given: BTreeSet<&Path> = files.iter().map(|path| path.as_path()).collect();
        let mut asked = found.files;
        let all = asked.len();
        asked.retain(|path| !layout.parts.contains(path) || given.contains(&**path));
        passed_over.patches += (all - asked.len()) as u64;
        sources.extend(read_files(&asked, strictness, known)?);
        if paths.iter().any(|path| is_stdin(&path)) {
            let read = read_from("<stdin>", std::io::stdin().lock(), strictness, known);
            sources.push(read.context("cannot read standard input")?);
        }
        if sources.is_empty() {
            bail!("{}", nothing(paths, &passed_over));
        }
        for passed in sources.iter().flat_map(|source| &source.parsed.passed_over) {
            match passed.why {
                Why::NoObject => passed_over.no_objects += 1,
                Why::Template => passed_over.templates += 1,
            }
        }
        Ok(Self {
            sources,
            passed_over,
            unrendered: layout.unrendered,
            strictness,
        })
    }

    /// Puts the documents together.
    pub(super) fn assemble(&self) -> Assembled {
        let documents = self
            .sources
            .iter()
            .flat_map(|source| &source.parsed.documents);
        match self.strictness {
            Strictness::Strict => assemble(documents.cloned()),
            Strictness::Lenient => assemble_layers(documents.cloned()),
        }
    }

    /// Counts what there is to look at.
    pub(super) fn looked_at(&self) -> LookedAt {
        looked_at(&self.sources)
    }
}

/// Counts what files hold.
pub(super) fn looked_at(sources: &[Source]) -> LookedAt {
    let mut looked_at = LookedAt::default();
    for parsed in sources.iter().map(|source| &source.parsed) {
        for document in &parsed.documents {
            *count_of(&mut looked_at, document) += 1;
        }
        looked_at.workloads += parsed.context.templates.len() as u64;
        looked_at.others += parsed.context.others as u64;
    }
    looked_at
}

fn count_of<'l>(looked_at: &'l mut LookedAt, document: &Document) -> &'l mut u64 {
    match document.content {
        Content::NetworkPolicy(_) | Content::ClusterNetworkPolicy(_) => &mut looked_at.policies,
        Content::Pod(_) => &mut looked_at.workloads,
        Content::Namespace(_) => &mut looked_at.namespaces,
        Content::Node(_) => &mut looked_at.nodes,
        Content::Service(_) | Content::EndpointSlice(_) => &mut looked_at.services,
    }
}

/// Texts that were read before, each once.
pub(super) type KnownTexts<'s> = HashMap<&'s [u8], &'s Source>;

/// Reads files, as many at a time as there are processors.
///
/// # Errors
/// The first in the order of paths.
fn read_files(
    paths: &[PathBuf],
    strictness: Strictness,
    known: &KnownTexts<'_>,
) -> Result<Vec<Source>> {
    let at_a_time = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let read_some = || {
        let mut read = Vec::new();
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some(path) = paths.get(at)
        {
            read.push((at, read_file(path, strictness, known)));
        }
        read
    };
    let mut read = thread::scope(|scope| -> Result<_> {
        let others: Vec<_> = (1..at_a_time.min(paths.len()))
            .map(|_| {
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn_scoped(scope, read_some)
            })
            .collect::<Result<_, _>>()
            .context("cannot start a thread")?;
        let mut read = read_some();
        for other in others {
            read.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        Ok(read)
    })?;
    read.sort_unstable_by_key(|(at, _)| *at);
    read.into_iter().map(|(_, source)| source).collect()
}

fn read_file(path: &Path, strictness: Strictness, known: &KnownTexts<'_>) -> Result<Source> {
    let name = path.to_string_lossy().into_owned();
    let file = File::open(path).and_then(|file| read_from(&name, file, strictness, known));
    file.with_context(|| format!("cannot read {name}"))
}

/// Reads a text at once, or item by item where it is larger than that.
fn read_from(
    name: &str,
    mut input: impl Read,
    strictness: Strictness,
    known: &KnownTexts<'_>,
) -> std::io::Result<Source> {
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_FILE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    input.by_ref().take(most).read_to_end(&mut bytes)?;
    let name: Arc<str> = name.into();
    let same = known.get(&*bytes).and_then(|source| source.renamed(&name));
    if let Some(source) = same {
        return Ok(source);
    }
    if let Some(text) = from_utf16(&bytes) {
        return Ok(Source::read_as(name, text.into_bytes().into(), strictness));
    }
    if bytes.len() > MAX_FILE {
        return read_stream(&name, std::io::Cursor::new(bytes).chain(input), strictness);
    }
    Ok(Source::read_as(name, bytes.into(), strictness))
}

/// The text of bytes that say at their beginning that they are UTF-16, as some editors and
/// shells write it.
fn from_utf16(bytes: &[u8]) -> Option<String> {
    let unit: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let (pairs, _) = bytes[2..].as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    char::decode_utf16(units).collect::<Result<_, _>>().ok()
}

fn nothing(paths: &[PathBuf], passed_over: &PassedOver) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut text = format!(
        "there is no .yaml, .yml or .json file in {}",
        paths.join(", ")
    );
    let left_out = passed_over.left_out + passed_over.patches;
    if left_out > 0 {
        text += &format!(" but {left_out} that patterns leave out or kustomizations patch with");
    }
    text
}

/// Folders that something renders, and the files that are only parts of what is rendered.
#[derive(Default)]
struct Layout {
    parts: BTreeSet<PathBuf>,
    unrendered: Vec<Unrendered>,
}

impl Layout {
    fn of(found: &Repository) -> Self {
        let mut layout = Self::default();
        // Folders of kustomize, and those among them that others build on.
        let mut folders: BTreeMap<PathBuf, Renderer> = BTreeMap::new();
        let mut bases: BTreeSet<PathBuf> = BTreeSet::new();
        let by_name: BTreeSet<&Path> = found.files.iter().map(PathBuf::as_path).collect();
        for directory in &found.directories {
            if by_name.contains(&*directory.join(CHART)) {
                folders.insert(clean(directory), Renderer::Helm);
            }
            let kustomization =
                KUSTOMIZATIONS
                    .iter()
                    .map(|name| directory.join(name))
                    .find(|path| {
                        by_name.contains(&**path)
                            || path.ends_with("Kustomization") && path.is_file()
                    });
            let Some(path) = kustomization else { continue };
            folders.insert(clean(directory), Renderer::Kustomize);
            let Ok(file) = SourceFile::read(path) else {
                continue;
            };
            let Ok(text) = std::str::from_utf8(&file.bytes) else {
                continue;
            };
            for node in yaml::parse(text).into_iter().flatten() {
                for key in PARTS {
                    for item in items(&node, key) {
                        let path = text_of(item).or_else(|| text_of(value(item, "path")?));
                        layout
                            .parts
                            .extend(path.map(|path| joined(directory, path)));
                    }
                }
                for key in ["resources", "bases", "components"] {
                    let paths = items(&node, key).iter().filter_map(text_of);
                    bases.extend(paths.map(|path| joined(directory, path)));
                }
            }
        }
        // What is a part under one name is given by another: as it was found.
        let parts = std::mem::take(&mut layout.parts);
        layout.parts = (found.files.iter())
            .filter(|file| parts.contains(&clean(file)))
            .cloned()
            .collect();
        // A chart within a chart is rendered with it.
        let is_within = |folder: &Path| {
            folder
                .ancestors()
                .skip(1)
                .any(|above| folders.get(above) == Some(&Renderer::Helm))
        };
        layout.unrendered = (folders.iter())
            .filter(|(folder, _)| !bases.contains(*folder) && !is_within(folder))
            .map(|(folder, renderer)| unrendered(folder, *renderer))
            .collect();
        layout
    }
}

fn unrendered(folder: &Path, renderer: Renderer) -> Unrendered {
    let shown = match folder.to_string_lossy() {
        folder if folder.is_empty() => ".".to_owned(),
        folder => folder.into_owned(),
    };
    let command = match renderer {
        Renderer::Kustomize => format!("kubectl kustomize {shown}"),
        Renderer::Helm => format!("helm template {shown}"),
    };
    Unrendered {
        folder: shown,
        renderer,
        command,
    }
}

/// A path from a directory, without detours.
fn joined(directory: &Path, path: &str) -> PathBuf {
    clean(&directory.join(path))
}

/// A path without `.`, and without `..` where that can be told.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some() => _ = clean.pop(),
            other => clean.push(other),
        }
    }
    clean
}

fn value<'n, 't>(node: &'n Node<'t>, key: &str) -> Option<&'n Node<'t>> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let is_key = |node: &Node<'_>| text_of(node) == Some(key);
    let entry = entries.iter().find(|entry| is_key(&entry.key))?;
    Some(&entry.value)
}

fn items<'n, 't>(node: &'n Node<'t>, key: &str) -> &'n [Node<'t>] {
    match value(node, key).map(|node| &node.value) {
        Some(Value::List(items)) => items,
        _ => &[],
    }
}

fn text_of<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_16_is_read_where_it_says_so() {
        let text = "kind: Pod # \u{1f600}";
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(
            from_utf16(&[&[0xff, 0xfe], &le[..]].concat()).as_deref(),
            Some(text)
        );
        assert_eq!(
            from_utf16(&[&[0xfe, 0xff], &be[..]].concat()).as_deref(),
            Some(text)
        );
        assert_eq!(from_utf16(text.as_bytes()), None);
        assert_eq!(from_utf16(&[0xff, 0xfe, 0x00, 0xd8]), None);
    }

    #[test]
    fn paths_lose_their_detours_alone() {
        for (path, expected) in [
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("../../a/..", "../.."),
            ("/a/../b", "/b"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
