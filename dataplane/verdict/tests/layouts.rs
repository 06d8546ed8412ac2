//! The layouts that kernel programs and user space share are on record, each under its
//! version: one that changes under the same version would be read as what it is not by an
//! agent or a program of before.
//!
//! `dataplane/layouts` has that record. After a change: raise the version that the message
//! names, and run this test with `COFFERDAM_BLESS=1`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use cofferdam_verdict::{
    LAYOUT_VERSION, STATE_VERSION,
    address::Family,
    bucket::{AddressBlock, Bucket},
    counter::{Counter, Hook},
    endpoint::{Binding, EndpointRecord},
    event::{EndRecord, EventRecord},
    flow::{FlowEntry, FlowKey, FlowSet, FlowState, Idle},
    fragment::{FragmentEntry, FragmentSet},
    hash::Keys,
    hits::RuleCount,
    memory::Settings,
    table::SlotKind,
    verdict::{Action, Direction},
};

/// Layouts that one version stands for, by their names.
type Layouts = BTreeMap<String, String>;

/// Adds a structure with all of its fields. One that is not named does not compile.
macro_rules! structure {
    ($layouts:ident, $name:ident { $($field:ident),+ $(,)? }) => {{
        fn has_no_more(value: $name) {
            let $name { $($field: _),+ } = value;
        }
        let _: fn($name) = has_no_more;
        fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> usize {
            size_of::<F>()
        }
        let mut text = format!("size {} align {}\n", size_of::<$name>(), align_of::<$name>());
        $(
            let at = std::mem::offset_of!($name, $field);
            let size = size_of_field(|value: &$name| &value.$field);
            writeln!(text, "  {at:>4} {size:>4} {}", stringify!($field)).expect("a string");
        )+
        $layouts.insert(stringify!($name).to_owned(), text);
    }};
}

/// Adds the numbers of an enumeration. A variant that is not named does not compile.
macro_rules! numbers {
    ($layouts:ident, $name:ident { $($variant:ident),+ $(,)? }) => {{
        let number = |value: $name| match value { $($name::$variant)|+ => value as u64 };
        let mut text = String::from("numbers\n");
        $(
            writeln!(text, "  {:>4} {}", number($name::$variant), stringify!($variant)).expect("a string");
        )+
        $layouts.insert(stringify!($name).to_owned(), text);
    }};
}

/// Adds the constants of a module as they stand in its source: bits of words, and places.
fn constants(layouts: &mut Layouts, file: &str, module: &str) {
    let text = source(file);
    let (_, body) = text
        .split_once(&format!("mod {module} {{\n"))
        .unwrap_or_else(|| panic!("no module {module} in {file}"));
    let (body, _) = body.split_once("\n}").expect("the module's end");
    let constants = body.lines().filter_map(|line| {
        let (_, constant) = line.split_once("const ")?;
        let (name, rest) = constant.split_once(": ")?;
        let (_, value) = rest.trim_end_matches(';').split_once(" = ")?;
        Some(format!("  {name} = {value}\n"))
    });
    let constants: String = constants.collect();
    assert!(!constants.is_empty(), "{file} {module}");
    let name = format!("{}::{module}", file.trim_end_matches(".rs"));
    layouts.insert(name, format!("constants\n{constants}"));
}

/// Layouts that flows rest on, under [`STATE_VERSION`].
fn state() -> Layouts {
    let mut layouts = Layouts::new();
    structure!(layouts, AddressBlock { slots });
    structure!(
        layouts,
        Binding {
            epoch,
            ifindex,
            stamp,
            bypassed_until
        }
    );
    structure!(layouts, Bucket { words });
    structure!(
        layouts,
        EndpointRecord {
            ifindex,
            flags,
            incarnation,
            primary_slot,
            mac,
            flow_partition,
            flow_size,
            stamp,
            adopt_until,
            link_local,
            listeners,
            v4,
            v4_slots,
            v6,
            v6_slots,
        }
    );
    structure!(
        layouts,
        FlowEntry {
            state,
            key,
            peer_slot,
            peer_epoch,
            last_seen,
            tags,
            packets,
            bytes,
            acknowledged,
            initial,
            answered,
            opened,
            checked,
        }
    );
    structure!(
        layouts,
        FlowKey {
            peer,
            local,
            ports,
            kind
        }
    );
    structure!(layouts, FlowSet { ways });
    structure!(
        layouts,
        FragmentEntry {
            word,
            source,
            destination,
            datagram,
            kind,
            peer_slot,
            peer_epoch,
            header,
            began,
        }
    );
    structure!(layouts, FragmentSet { ways });
    structure!(
        layouts,
        Keys {
            words,
            spread,
            mark,
            _spare
        }
    );
    numbers!(
        layouts,
        FlowState {
            Free,
            Embryonic,
            Established,
            Closing,
            Answered
        }
    );
    constants(&mut layouts, "endpoint.rs", "flags");
    constants(&mut layouts, "endpoint.rs", "listener");
    constants(&mut layouts, "flow.rs", "flow_mark");
    constants(&mut layouts, "flow.rs", "width");
    layouts
}

/// Tables, counters, records and settings, under [`LAYOUT_VERSION`].
fn rest() -> Layouts {
    let mut layouts = Layouts::new();
    structure!(layouts, Counter { packets, bytes });
    structure!(
        layouts,
        EndRecord {
            jiffies,
            state,
            key,
            packets,
            bytes,
            ifindex,
            incarnation,
            peer_slot,
            last_seen,
            opened,
            _pad,
        }
    );
    structure!(
        layouts,
        EventRecord {
            jiffies,
            revision,
            sequence,
            source,
            destination,
            source_slot,
            destination_slot,
            verdict,
            audited,
            ifindex,
            incarnation,
            bytes,
            source_port,
            destination_port,
            ethertype,
            protocol,
            family,
            tcp_flags,
            hook,
            direction,
            reversed,
            stamp,
            kind,
            flags,
            _pad,
        }
    );
    structure!(
        layouts,
        RuleCount {
            allowed,
            audited,
            denied
        }
    );
    structure!(
        layouts,
        Settings {
            keys,
            bucket_masks,
            own_node_allowed,
            idle,
            flow_chunk_bits,
            event_share,
        }
    );
    numbers!(layouts, Action { Allow, Deny });
    numbers!(layouts, Direction { Ingress, Egress });
    numbers!(layouts, Family { V4, V6 });
    numbers!(
        layouts,
        Hook {
            FromWorkload,
            ToWorkload,
            UplinkIngress,
            UplinkEgress
        }
    );
    numbers!(
        layouts,
        Idle {
            TcpEstablished,
            TcpEmbryonic,
            TcpClosing,
            Udp,
            UdpOneWay,
            Sctp,
            Icmp,
            Other,
        }
    );
    numbers!(
        layouts,
        SlotKind {
            Spare,
            LocalWorkload,
            RemoteWorkload,
            Outside,
            OwnNode,
            OtherNode,
            Virtual,
        }
    );
    constants(&mut layouts, "event.rs", "kind");
    constants(&mut layouts, "event.rs", "flag");
    constants(&mut layouts, "table.rs", "header");
    constants(&mut layouts, "table.rs", "range_tag");
    constants(&mut layouts, "verdict.rs", "row_flag");
    layouts
}

/// The record of one version: its line, then its layouts.
fn recorded(name: &str, version: u32, layouts: &Layouts) -> String {
    let entries = layouts
        .iter()
        .map(|(name, text)| format!("\n{name}: {text}"));
    format!("{name} {version}\n{}", entries.collect::<String>())
}

/// The version in a record.
fn version(record: &str) -> Option<u32> {
    record.lines().next()?.split_once(' ')?.1.parse().ok()
}

fn source(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the sources");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let found = paths.flat_map(|path| {
        if path.is_dir() {
            sources(&path)
        } else {
            vec![path]
        }
    });
    found.collect()
}

/// Holds what there is against a file of `dataplane/layouts`.
fn assert_recorded(file: &str, name: &str, version_now: u32, layouts: &Layouts) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../layouts")
        .join(file);
    let written = fs::read_to_string(&path).unwrap_or_default();
    let now = recorded(name, version_now, layouts);
    if written == now {
        return;
    }
    assert_ne!(
        version(&written),
        Some(version_now),
        "a layout is not that of {name} {version_now} any more: raise `{name}`, then run this \
         test with COFFERDAM_BLESS=1\nnow:\n{now}"
    );
    assert!(
        env::var_os("COFFERDAM_BLESS").is_some(),
        "{name} has changed: run this test with COFFERDAM_BLESS=1"
    );
    fs::write(&path, now).expect("the record can be written");
}

#[test]
fn a_layout_changes_with_its_version_alone() {
    assert_recorded("state.txt", "STATE_VERSION", STATE_VERSION, &state());
    assert_recorded("rest.txt", "LAYOUT_VERSION", LAYOUT_VERSION, &rest());
}

/// A structure with a layout of its own is on record, or no one else's business.
#[test]
fn no_shared_structure_is_missing() {
    /// Structures that lie on a program's stack alone.
    const OWN: [&str; 2] = ["Case", "Window"];
    let known: BTreeSet<String> = state().into_keys().chain(rest().into_keys()).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = 0;
    for path in sources(&folder) {
        let text = fs::read_to_string(&path).expect("a source");
        for (_, behind) in text
            .match_indices("#[repr(C")
            .map(|(at, _)| text.split_at(at))
        {
            let name = behind
                .split_once("pub struct ")
                .expect("a structure")
                .1
                .split([' ', '(', '<'])
                .next()
                .expect("a name");
            found += 1;
            assert!(
                known.contains(name) || OWN.contains(&name),
                "{}: {name}",
                path.display()
            );
        }
    }
    assert!(found > 15, "{found}");
}
