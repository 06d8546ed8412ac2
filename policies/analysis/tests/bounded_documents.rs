//! Documents of any size cost bounded time and memory.
//!
//! One test, for the memory is that of the process. The bounds are far above what is
//! needed and far below what the mistake would take that a case is there for: most
//! are of something that was done for each of n things with each of n.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use cofferdam_analysis::analyse;
use cofferdam_documents::{LastGood, MAX_FILE, Parsed, Source, assemble, parse, read};
use cofferdam_syntax::diagnostic::{Code, Severity};

/// Of a processor for each case, by an unoptimised build.
const MOST_TIME: Duration = Duration::from_secs(10);
/// For all of them together.
const MOST_MEMORY_KIB: u64 = 512 << 10;

const POD: &str = "apiVersion: v1\nkind: Pod\n";
const POLICY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
const CLUSTER_POLICY: &str =
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n";

/// Most memory this process has had.
fn peak_memory_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// Time that a processor has spent on this thread, whatever else the machine does.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let behind_name = stat.rsplit(')').next().unwrap();
    // In user space and in the kernel, in hundredths of a second; see proc(5).
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn case(what: &str, run: impl FnOnce()) {
    let start = processor_time();
    run();
    let (time, memory) = (processor_time() - start, peak_memory_kib());
    println!("{what}: {time:.1?}, {} MiB at most so far", memory >> 10);
    assert!(time < MOST_TIME, "{what} took {time:?}");
    assert!(memory < MOST_MEMORY_KIB, "{what}: {memory} KiB");
}

fn text_of(count: usize, document: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, index| {
        let _ = writeln!(text, "---\n{}", document(index));
        text
    })
}

/// Parses and assembles; the number of rejected documents, between each other too.
fn rejected(text: &str) -> usize {
    let parsed = parse("a.yaml", text.as_bytes());
    let assembled = assemble(parsed.documents);
    parsed.rejected.len() + assembled.rejected.len()
}

fn large_files_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.yaml");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let found = read(&[path.as_path()]);
    let endless = read(&[Path::new("/dev/zero")]).unwrap();
    for file in [&found.unwrap()[0], &endless[0]] {
        assert_eq!(file.bytes.len(), MAX_FILE + 1);
        let parsed = parse("a.yaml", &file.bytes);
        assert_eq!((parsed.diagnostics.len(), parsed.rejected.len()), (1, 1));
        assert_eq!(parsed.diagnostics[0].code, Code::File);
    }
}

fn ten_thousand_documents_are_read() {
    let text = text_of(10_000, |index| match index % 4 {
        0 => format!(
            "{POD}metadata: {{name: a{index}, namespace: x, labels: {{app: a{index}}}}}\nstatus: {{podIP: 10.0.{}.{}}}",
            index / 256,
            index % 256
        ),
        1 => format!(
            "{CLUSTER_POLICY}metadata: {{name: c{index}}}\nspec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}"
        ),
        _ => format!(
            "{POLICY}metadata: {{name: p{index}, namespace: x}}\nspec: {{podSelector: {{matchLabels: {{app: a{index}}}}}}}"
        ),
    });
    let Parsed {
        documents,
        diagnostics,
        ..
    } = parse("a.yaml", text.as_bytes());
    assert_eq!((documents.len(), diagnostics.len()), (10_000, 0));
    let inventory = assemble(documents).inventory;
    assert_eq!(inventory.workloads().len(), 2_500);
    assert_eq!(inventory.cluster_policies().len(), 2_500);
    assert_eq!(inventory.policies().len(), 5_000);
}

fn ten_thousand_mistakes_are_told_apart_from_what_is_good() {
    // Each second one has an error, each fourth a warning.
    let text = text_of(10_000, |index| {
        let spec = match index % 4 {
            1 | 3 => "{podSelektor: {}}",
            2 => "{policyTypes: [Ingress], egress: [{}]}",
            _ => "{}",
        };
        format!("{POLICY}metadata: {{name: p{index}}}\nspec: {spec}")
    });
    let source = Source::new("a.yaml".into(), text.as_bytes().into());
    assert_eq!(source.parsed.documents.len(), 5_000);
    assert_eq!(source.parsed.rejected.len(), 5_000);
    let of = |severity| {
        let diagnostics = source.parsed.diagnostics.iter();
        diagnostics.filter(|one| one.severity == severity).count()
    };
    assert!(of(Severity::Error) > 0 && of(Severity::Warning) > 0);
    assert!(source.parsed.diagnostics.len() <= 1001);
    // As good as it was before, with a mistake in each second one since.
    let good = text.replace("podSelektor", "podSelector");
    let good = Source::new("a.yaml".into(), good.as_bytes().into());
    let before = LastGood::default().settle(&[good], Vec::new());
    let now = before.last_good.settle(&[source], Vec::new());
    assert_eq!((now.accepted, now.unprecedented), (5_000, 0));
    assert_eq!(now.inventory.policies().len(), 10_000);
}

fn an_address_that_thousands_claim_is_nobodys() {
    let text = text_of(5_000, |index| {
        format!("{POD}metadata: {{name: a{index}}}\nstatus: {{podIP: 10.0.0.1}}")
    });
    let assembled = assemble(parse("a.yaml", text.as_bytes()).documents);
    assert_eq!(assembled.rejected.len(), 5_000);
    // Each is told of, and names but few of the others.
    assert_eq!(assembled.diagnostics.len(), 5_000);
    let longest = assembled.diagnostics.iter().map(|one| one.message.len());
    assert!(longest.max() < Some(200));
}

fn a_pod_may_have_a_hundred_thousand_addresses() {
    let list: String = (0..100_000u32).fold(String::new(), |mut list, index| {
        let _ = write!(
            list,
            "{{ip: 10.{}.{}.{}}},",
            index >> 16,
            index >> 8 & 255,
            index & 255
        );
        list
    });
    let text = format!("{POD}metadata: {{name: a}}\nstatus: {{podIPs: [{list}]}}\n");
    assert_eq!(rejected(&text), 0);
}

fn a_mapping_may_have_two_hundred_thousand_keys_that_are_not_known() {
    let keys: String = (0..200_000).fold(String::new(), |mut keys, index| {
        let _ = writeln!(keys, "  podSelektor{index:020}: {{}}");
        keys
    });
    assert_eq!(
        rejected(&format!("{POLICY}metadata: {{name: p}}\nspec:\n{keys}")),
        1
    );
}

fn bombs_are_refused() {
    let long = "x".repeat(1 << 20);
    let mut nested = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        let _ = writeln!(nested, "a{level}: &a{level} [{items}]");
    }
    for bomb in [
        // A few bytes for each copy of a megabyte.
        format!("- &a \"{long}\\n\"\n{}", "- *a\n".repeat(1_000)),
        format!("- &a !x{long} b\n{}", "- *a\n".repeat(1_000)),
        nested,
        "[".repeat(1 << 20),
        "{".repeat(1 << 20),
        "- ".repeat(1 << 20),
        "? ".repeat(1 << 20),
        format!("{}{}", "[".repeat(100), "a,".repeat(2_000_000)),
    ] {
        assert_eq!(rejected(&bomb), 1, "{:.60}", bomb);
    }
}

/// Assembles and analyses; the number of findings.
fn found(text: &str) -> usize {
    let source = Source::new("a.yaml".into(), text.as_bytes().into());
    let assembled = assemble(source.parsed.documents.clone());
    assert!(assembled.rejected.is_empty());
    analyse(&[source], &assembled).len()
}

/// Each looked through the whole file for a word.
fn thousands_of_policies_are_analysed() {
    let text = text_of(30_000, |index| {
        format!(
            "{POLICY}metadata: {{name: p{index}, namespace: n{}}}\nspec: {{podSelector: \
             {{matchLabels: {{app: a{index}}}}}, policyTypes: [Ingress], ingress: [{{}}]}}",
            index % 100
        )
    });
    assert_eq!(found(&text), 0);
}

/// Each Service was compared with each pod, and each block with each rule.
fn services_of_thousands_of_pods_are_analysed() {
    const SERVICE: &str = "apiVersion: v1\nkind: Service\n";
    let services = text_of(2_000, |i| {
        let (high, low) = (i / 250, i % 250);
        format!(
            "{SERVICE}metadata: {{name: s{i}}}\nspec: {{clusterIP: 10.96.{high}.{low}, selector: \
             {{app: a, part: p{}}}, ports: [{{port: {}, targetPort: x}}, {{port: 20000}}]}}",
            i % 50,
            i + 1
        )
    });
    let pods = text_of(5_000, |i| {
        let (high, low) = (i / 250, i % 250);
        format!(
            "{POD}metadata: {{name: p{i}, labels: {{app: a, part: p{}}}}}\nstatus: {{podIP: \
             10.0.{high}.{low}}}",
            i % 50
        )
    });
    let blocks: Vec<String> = (0..1_000)
        .map(|i| format!("{{ipBlock: {{cidr: 10.96.{}.{}/32}}}}", i / 250, i % 250))
        .collect();
    let policy = format!(
        "{POLICY}metadata: {{name: p}}\nspec: {{podSelector: {{}}, policyTypes: [Egress], egress: \
         [{{to: [{}]}}]}}",
        blocks.join(", ")
    );
    let text = format!("{services}---\n{pods}---\n{policy}");
    // A block each, and a port each that nobody has.
    assert_eq!(found(&text), 1_000 + 2_000);
}

/// Each was compared with each. Those beyond what is compared are in force, and nothing
/// is said of them.
fn rules_without_end_are_compared_up_to_a_bound() {
    let all = |rule: &dyn Fn(usize) -> String, count| -> String { (0..count).map(rule).collect() };
    let rule = |index: usize| format!("  - {{ports: [{{port: {}}}]}}\n", index % 60_000 + 1);
    let policy = |count| {
        let rules = all(&rule, count);
        format!("---\n{POLICY}metadata: {{name: p{count}}}\nspec:\n  ingress:\n{rules}  - {{}}\n")
    };
    let rule = |index: usize| {
        format!(
            "  - {{action: Deny, from: [{{namespaces: {{}}}}], protocols: \
             [{{tcp: {{destinationPort: {{number: {}}}}}}}]}}\n",
            index + 1
        )
    };
    let cluster = text_of(1_000, |index| {
        format!(
            "{CLUSTER_POLICY}metadata: {{name: c{index}}}\nspec:\n  tier: Admin\n  priority: {}\n  \
             subject: {{namespaces: {{}}}}\n  ingress:\n{}",
            index % 1_000,
            all(&rule, 25)
        )
    });
    let text = format!("{POD}metadata: {{name: a}}\n");
    assert_eq!(found(&format!("{text}{}", policy(100))), 100);
    assert!(found(&format!("{text}{}{}{cluster}", policy(100), policy(40_000))) >= 100);
}

/// Rules about other workloads do not use up what is compared.
fn rules_of_many_workloads_are_all_compared() {
    let pods = text_of(400, |index| {
        format!("{POD}metadata: {{name: p{index}, labels: {{app: a{index}}}}}")
    });
    let rule = |index: usize| {
        format!(
            "  - {{action: Accept, from: [{{namespaces: {{}}}}], protocols: \
             [{{udp: {{destinationPort: {{number: {}}}}}}}]}}\n",
            index + 1
        )
    };
    let rules: String = (0..25).map(rule).collect();
    let policies = text_of(800, |index| {
        format!(
            "{CLUSTER_POLICY}metadata: {{name: c{index}}}\nspec:\n  tier: Admin\n  \
             priority: {index}\n  subject: {{pods: {{podSelector: {{matchLabels: \
             {{app: a{}}}}}}}}}\n  ingress:\n{rules}",
            index % 400
        )
    });
    // The second policy about each workload says what the first does.
    assert_eq!(found(&(pods + &policies)), 400 * 25);
}

#[test]
fn time_and_memory_are_bounded() {
    case(
        "a file of 100 MiB",
        large_files_are_refused_before_they_are_read,
    );
    case("10 000 documents", ten_thousand_documents_are_read);
    case(
        "10 000 documents, half of them wrong",
        ten_thousand_mistakes_are_told_apart_from_what_is_good,
    );
    case(
        "one address, 5 000 pods",
        an_address_that_thousands_claim_is_nobodys,
    );
    case(
        "one pod, 100 000 addresses",
        a_pod_may_have_a_hundred_thousand_addresses,
    );
    case(
        "200 000 unknown keys",
        a_mapping_may_have_two_hundred_thousand_keys_that_are_not_known,
    );
    case("bombs", bombs_are_refused);
    case("30 000 policies", thousands_of_policies_are_analysed);
    case(
        "2 000 Services, 5 000 pods, 1 000 blocks",
        services_of_thousands_of_pods_are_analysed,
    );
    case(
        "40 000 rules of one policy, 25 000 of one tier",
        rules_without_end_are_compared_up_to_a_bound,
    );
    case(
        "20 000 rules of one tier about 400 workloads",
        rules_of_many_workloads_are_all_compared,
    );
}
