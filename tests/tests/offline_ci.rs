//! The action for GitHub, the job for GitLab, the hooks of pre-commit and the plugin of kubectl
//! do in a scratch repository what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cofferdam_tests::{cofferdam, scratch::Scratch};
use serde_yaml::Value;

const WORKLOADS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
";

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

const TEST: &str = "\
apiVersion: cofferdam.dev/v1alpha1
kind: PolicyTest
metadata: {name: shop}
expect:
- {from: shop/web, to: shop/db, port: tcp/5432, verdict: allow}
- {from: shop/web, to: shop/db, port: tcp/22, verdict: deny}
";

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(path).expect("a file of the repository")
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&text(path)).expect("YAML")
}

fn string(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value:?}"))
}

/// A repository whose base is the example, and which has another port since.
struct Repository {
    scratch: Scratch,
    base: String,
}

impl Repository {
    fn new() -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path().join("policies");
        fs::create_dir(&folder).expect("a folder");
        for (name, text) in [("workloads", WORKLOADS), ("db", POLICY), ("test", TEST)] {
            fs::write(folder.join(format!("{name}.yaml")), text).expect("a file");
        }
        let mut own = Self {
            scratch,
            base: String::new(),
        };
        own.git(&["init", "--quiet"]);
        own.git(&["add", "."]);
        own.git(&["commit", "--quiet", "--message", "base"]);
        own.base = own.git(&["rev-parse", "HEAD"]).trim().to_owned();
        own.change("db.yaml", "port: 5432}", "port: 5432}, {port: 5433}");
        own
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example"])
            .args(arguments)
            .current_dir(self.scratch.path())
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let path = self.scratch.path().join("policies").join(name);
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).expect("a file");
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }
}

/// The steps of the action, run as GitHub runs them.
struct Action<'r> {
    repository: &'r Repository,
    inputs: BTreeMap<String, String>,
    /// `steps.ID.outputs.NAME`, as far as it has come.
    outputs: BTreeMap<String, String>,
    files: Scratch,
}

impl<'r> Action<'r> {
    fn new(repository: &'r Repository, inputs: &[(&str, &str)]) -> Self {
        let action = yaml("action.yml");
        let declared = action["inputs"].as_mapping().expect("inputs");
        let mut all: BTreeMap<String, String> = (declared.iter())
            .map(|(name, input)| {
                (
                    string(name).to_owned(),
                    string(&input["default"]).to_owned(),
                )
            })
            .collect();
        let binary = cofferdam!().to_str().expect("text");
        for (name, value) in [&[("binary", binary)], inputs].concat() {
            assert!(
                all.insert(name.to_owned(), value.to_owned()).is_some(),
                "{name}"
            );
        }
        Self {
            repository,
            inputs: all,
            outputs: BTreeMap::new(),
            files: Scratch::new(),
        }
    }

    /// The value of an expression: alternatives of inputs, outputs and the event.
    fn value(&self, text: &str) -> String {
        let Some(expression) = text.strip_prefix("${{ ") else {
            assert!(!text.contains("${{"), "{text}");
            return text.to_owned();
        };
        let expression = expression.strip_suffix(" }}").expect("one expression");
        let values = expression.split(" || ").map(|one| match one {
            "github.event.pull_request.base.sha" => self.repository.base.clone(),
            _ => match one.strip_prefix("inputs.") {
                Some(name) => self.inputs[name].clone(),
                None => self.outputs.get(one).cloned().unwrap_or_default(),
            },
        });
        values
            .into_iter()
            .find(|value| !value.is_empty())
            .unwrap_or_default()
    }

    /// Runs all steps; the status of each by its id. A step that fails ends those behind it
    /// that do not say otherwise.
    fn run(&mut self) -> BTreeMap<String, i32> {
        let action = yaml("action.yml");
        let mut statuses = BTreeMap::new();
        for step in action["runs"]["steps"].as_sequence().expect("steps") {
            let id = string(&step["id"]).to_owned();
            let has_failed = statuses.values().any(|status| *status != 0);
            let is_found = statuses.get("find").is_none_or(|status| *status == 0);
            let goes_on = match step.get("if") {
                None => !has_failed,
                Some(condition) => {
                    let expected = "${{ !cancelled() && steps.find.outcome == 'success' }}";
                    assert_eq!(string(condition), expected);
                    is_found
                }
            };
            if goes_on {
                let output = self.step(step, &id);
                statuses.insert(id, output.status.code().expect("no signal"));
            }
        }
        statuses
    }

    fn step(&mut self, step: &Value, id: &str) -> Output {
        assert_eq!(string(&step["shell"]), "bash");
        let script = self.files.path().join("script");
        fs::write(&script, string(&step["run"])).expect("a file");
        let output_file = self.files.path().join("output");
        fs::write(&output_file, "").expect("a file");
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-eo", "pipefail"])
            .arg(&script)
            .current_dir(self.repository.path())
            .env("GITHUB_OUTPUT", &output_file)
            .env("GITHUB_STEP_SUMMARY", self.summary_file())
            .env("RUNNER_TEMP", self.files.path());
        for (name, value) in step["env"].as_mapping().expect("an environment") {
            bash.env(string(name), self.value(string(value)));
        }
        let output = bash.output().expect("bash runs");
        println!("{id}: {output:?}");
        for line in fs::read_to_string(&output_file).expect("a file").lines() {
            let (name, value) = line.split_once('=').expect("name=value");
            let name = format!("steps.{id}.outputs.{name}");
            self.outputs.insert(name, value.to_owned());
        }
        output
    }

    fn summary_file(&self) -> PathBuf {
        self.files.path().join("summary")
    }

    fn output(&self, name: &str) -> String {
        let action = yaml("action.yml");
        self.value(string(&action["outputs"][name]["value"]))
    }
}

fn statuses<const N: usize>(all: [(&str, i32); N]) -> BTreeMap<String, i32> {
    all.map(|(id, status)| (id.to_owned(), status)).into()
}

#[test]
fn expressions_of_the_action_stand_where_no_shell_reads_them() {
    let action = yaml("action.yml");
    let keys: BTreeSet<&str> = (action.as_mapping().expect("a mapping").keys())
        .map(string)
        .collect();
    let known = [
        "name",
        "description",
        "branding",
        "inputs",
        "outputs",
        "runs",
    ];
    assert_eq!(keys, BTreeSet::from(known));
    assert_eq!(string(&action["runs"]["using"]), "composite");
    let mut ids = BTreeSet::new();
    for step in action["runs"]["steps"].as_sequence().expect("steps") {
        assert!(ids.insert(string(&step["id"])), "twice: {step:?}");
        assert!(!string(&step["run"]).contains("${{"), "{step:?}");
    }
    for (name, input) in action["inputs"].as_mapping().expect("inputs") {
        assert!(!string(&input["description"]).is_empty(), "{name:?}");
    }
}

#[test]
fn the_action_checks_tests_and_compares_with_the_base() {
    let repository = Repository::new();
    let mut action = Action::new(&repository, &[]);
    let done = statuses([("find", 0), ("check", 0), ("test", 0), ("compare", 0)]);
    assert_eq!(action.run(), done);
    let summary = fs::read_to_string(action.summary_file()).expect("a summary");
    let head = "### Connections: 2 added, 0 removed\n";
    assert!(summary.starts_with(head), "{summary}");
    assert!(summary.contains("`tcp/5433`"), "{summary}");
    let sarif = fs::read_to_string(action.output("sarif")).expect("findings");
    assert!(sarif.contains("\"2.1.0\""), "{sarif}");
    let junit = fs::read_to_string(action.output("junit")).expect("results");
    assert!(junit.contains("tests=\"2\""), "{junit}");
    // What is added fails if it is asked for, unless it is approved of.
    let gate = [("fail-on", "added")];
    assert_eq!(Action::new(&repository, &gate).run()["compare"], 1);
    let approved = "exceptions:\n- {source: shop/web, destination: shop/db, ports: tcp/5433, \
                    reason: reports, expires: '2999-01-31'}\n";
    fs::write(repository.path().join("approved.yaml"), approved).expect("a file");
    let gate = [("fail-on", "added"), ("except", "approved.yaml")];
    assert_eq!(Action::new(&repository, &gate).run()["compare"], 0);
    let score = [("min-score", "100")];
    assert_eq!(Action::new(&repository, &score).run()["test"], 1);
}

#[test]
fn mistakes_fail_the_action_and_what_follows_is_said_all_the_same() {
    let repository = Repository::new();
    repository.change("db.yaml", "ingress:", "ingres:");
    let mut action = Action::new(&repository, &[]);
    let failed = statuses([("find", 0), ("check", 1), ("test", 1), ("compare", 1)]);
    assert_eq!(action.run(), failed);
    let sarif = fs::read_to_string(action.output("sarif")).expect("findings");
    assert!(sarif.contains("db.yaml"), "{sarif}");
    let missing = [("binary", "/nowhere/cofferdam")];
    assert_eq!(
        Action::new(&repository, &missing).run(),
        statuses([("find", 2)])
    );
}

#[test]
fn the_action_takes_the_binary_from_an_archive_with_its_checksum() {
    let repository = Repository::new();
    let scratch = Scratch::new();
    let inside = scratch.path().join("cofferdam-1");
    fs::create_dir(&inside).expect("a folder");
    // As small as what answers `--version`; the steps behind have no use for it here.
    let program = "#!/bin/sh\necho cofferdam 1\n";
    fs::write(inside.join("cofferdam"), program).expect("a file");
    let shell = |command: &str| {
        let mut sh = Command::new("sh");
        let output = sh
            .args(["-ec", command])
            .current_dir(scratch.path())
            .output();
        let output = output.expect("a shell runs");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    shell("chmod 755 cofferdam-1/cofferdam && tar -czf a.tar.gz cofferdam-1");
    let sum = shell("sha256sum a.tar.gz | cut -d' ' -f1")
        .trim()
        .to_owned();
    let path = scratch.path().join("a.tar.gz");
    let archive = path.to_str().expect("text");
    let right = [("archive", archive), ("sha256", &*sum)];
    let mut action = Action::new(&repository, &right);
    assert_eq!(action.run()["find"], 0);
    let binary = action.value("${{ steps.find.outputs.binary }}");
    assert_eq!(fs::read_to_string(binary).expect("the binary"), program);
    let other = sum.replace(|digit: char| digit.is_ascii_digit(), "0");
    for wrong in [
        &[("archive", archive)][..],
        &[("archive", archive), ("sha256", &*other)],
    ] {
        assert_ne!(
            Action::new(&repository, wrong).run()["find"],
            0,
            "{wrong:?}"
        );
    }
}

/// Runs the script of the job as GitLab does.
fn gitlab(repository: &Repository, variables: &[(&str, &str)]) -> Option<i32> {
    let job = &yaml("deploy/ci/gitlab.yml")[".cofferdam"];
    let lines = job["script"]
        .as_sequence()
        .expect("a script")
        .iter()
        .map(string);
    let script = lines.collect::<Vec<_>>().join("\n");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(repository.path());
    for (name, value) in job["variables"].as_mapping().expect("variables") {
        shell.env(string(name), string(value));
    }
    shell.env("COFFERDAM", cofferdam!());
    shell.envs(variables.iter().copied());
    let output = shell.output().expect("a shell runs");
    println!("{variables:?}: {output:?}");
    output.status.code()
}

#[test]
fn the_job_for_gitlab_does_the_same() {
    let repository = Repository::new();
    let base = ("CI_MERGE_REQUEST_DIFF_BASE_SHA", &*repository.base);
    assert_eq!(gitlab(&repository, &[]), Some(0));
    assert!(!repository.path().join("cofferdam.md").exists());
    assert_eq!(gitlab(&repository, &[base]), Some(0));
    let read = |name: &str| fs::read_to_string(repository.path().join(name)).expect("a file");
    assert!(read("cofferdam.md").contains("2 added, 0 removed"));
    assert!(read("cofferdam.xml").contains("tests=\"2\""));
    let gate = ("COFFERDAM_FAIL_ON", "added");
    assert_eq!(gitlab(&repository, &[base, gate]), Some(1));
    repository.change(
        "test.yaml",
        "tcp/22, verdict: deny",
        "tcp/22, verdict: allow",
    );
    assert_eq!(gitlab(&repository, &[]), Some(1));
    repository.change("db.yaml", "ingress:", "ingres:");
    assert_eq!(gitlab(&repository, &[]), Some(1));
}

#[test]
fn hooks_of_pre_commit_run_over_the_whole_repository() {
    let repository = Repository::new();
    let hooks = yaml(".pre-commit-hooks.yaml");
    let status = |hook: &Value| {
        let words: Vec<&str> = string(&hook["entry"]).split_whitespace().collect();
        assert_eq!(words[0], "cofferdam");
        let arguments = hook["args"]
            .as_sequence()
            .expect("arguments")
            .iter()
            .map(string);
        let mut command = Command::new(cofferdam!());
        command.args(&words[1..]).args(arguments);
        let output = command
            .current_dir(repository.path())
            .output()
            .expect("it runs");
        println!("{output:?}");
        output.status.code()
    };
    let all = |hooks: &Value| {
        let hooks = hooks.as_sequence().expect("hooks").iter();
        hooks.map(status).collect::<Vec<_>>()
    };
    for hook in hooks.as_sequence().expect("hooks") {
        assert_eq!(string(&hook["language"]), "system");
        assert_eq!(hook["pass_filenames"], Value::Bool(false));
    }
    assert_eq!(all(&hooks), [Some(0), Some(0)]);
    repository.change("test.yaml", "verdict: deny", "verdict: allow");
    assert_eq!(all(&hooks), [Some(0), Some(1)]);
    repository.change("db.yaml", "ingress:", "ingres:");
    assert_eq!(all(&hooks), [Some(1), Some(1)]);
}

#[test]
fn kubectl_finds_the_binary_as_its_plugin() {
    let repository = Repository::new();
    let bin = Scratch::new();
    symlink(cofferdam!(), bin.path().join("kubectl-cofferdam")).expect("a link");
    let path = std::env::var("PATH").unwrap_or_default();
    let kubectl = |arguments: &[&str]| {
        let mut kubectl = Command::new("kubectl");
        kubectl
            .args(arguments)
            .current_dir(repository.path())
            .env("PATH", format!("{}:{path}", bin.path().display()))
            .env("KUBECONFIG", "/dev/null");
        kubectl
            .output()
            .expect("kubectl is there; `cargo xtask setup` installs it")
    };
    let said = kubectl(&["cofferdam", "test", "policies"]);
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "all 2 expectations hold\n"
    );
    let help = kubectl(&["cofferdam", "check", "--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.contains("Usage: kubectl cofferdam check"), "{help}");
    let wrong = kubectl(&["cofferdam", "test", "nowhere"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    // What packages ship finds the command in the PATH.
    let shipped = text("xtask/shipped/kubectl-cofferdam");
    assert!(shipped.ends_with("exec cofferdam \"$@\"\n"), "{shipped}");
}
