//! Scenes that are shown, in order.

use std::{
    fs, io,
    path::Path,
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use cofferdam_tests::{
    expectations::{Question, Template},
    packet::Family,
    traffic::{Conversation, Outcome, Probe, probe},
};

use crate::{
    Arguments,
    agent::Agent,
    drops,
    habits::Habits,
    pictures,
    premises::Premises,
    prometheus,
    shop::{Shop, Site, shown},
    table::Reachability,
};

/// Member that is up to no good.
const INTRUDER: &str = "guests/intruder";
/// The connection that loses its rule: who, whom, where, and in which file the rule is.
const CUT: (&str, &str, u16, &str) = ("shop/api", "shop/db", 5432, "db.yaml");
const CUT_PROBE: Probe = Probe::Tcp(CUT.2);
/// Longest time for packets that must arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time after which packets that must not arrive are believed to be dropped.
const SILENCE: Duration = Duration::from_millis(700);

/// Findings so far.
#[derive(Default)]
struct Findings {
    right: usize,
    tried: usize,
    explained: usize,
    objections: Vec<String>,
}

impl Findings {
    fn take(&mut self, scene: &str, reachability: &Reachability) {
        let (right, tried) = reachability.count();
        self.right += right;
        self.tried += tried;
        self.object(scene, reachability.objections());
    }

    /// Notes what is not as it should be, and says so at once.
    fn object(&mut self, scene: &str, objections: impl IntoIterator<Item = String>) {
        for objection in objections {
            println!("  WRONG: {objection}");
            self.objections.push(format!("{scene}: {objection}"));
        }
    }
}

/// Prints the title of a scene, and what it is called in objections.
fn scene(title: &'static str) -> &'static str {
    println!("\n== {title}");
    title
}

/// Plays all scenes; whether all was as stated.
pub(crate) fn play(arguments: &Arguments, premises: &Premises, started: Instant) -> Result<bool> {
    let template = Template::read(&arguments.policies)?;
    let mut findings = Findings::default();

    scene("an agent without policies, a shop, and a host outside");
    let site = Site::new(&template)?;
    // A copy, so that policies can be added to it, and a rule removed.
    let policies = premises.folder().join("policies");
    copy(&arguments.policies, &policies, |text| !is_policy(text))?;
    let agent = Agent::start(&arguments.cofferdam, &site, &policies, premises)?;
    agent.wait()?;
    let shop = Shop::open(
        &site,
        &template,
        premises,
        &arguments.plugin,
        arguments.runtime,
    )?;
    for member in &shop.members {
        let [v4, v6] = Family::BOTH.map(|family| member.ip(family).to_string());
        println!("  {:20} {v4:14} {v6}", member.name);
    }
    let ports: Vec<String> = template.probes().into_iter().map(shown).collect();
    println!("  everybody serves {}", ports.join(", "));

    let open = scene("without policy: everybody reaches everybody");
    let table = Reachability::tried(&shop, &template, |_| true)?;
    print!("{}", table.shown(&shop, &template));
    findings.take(open, &table);

    let title = scene("the agent puts the policies in force");
    copy(&arguments.policies, &policies, is_policy)?;
    let revision = agent.sync()?;
    println!(
        "  {} workloads, revision {revision}; who reaches whom on which port:",
        shop.workloads().count()
    );
    let stated = |question: &Question| {
        let expected = template.expected.get(question);
        expected.is_some_and(|expected| expected.allowed)
    };
    if let Some(question) = template.unanswered().first() {
        bail!("nothing is stated about {question}");
    }
    let table = Reachability::tried(&shop, &template, stated)?;
    print!("{}", table.shown(&shop, &template));
    findings.take(title, &table);

    intruder(&agent, &shop, &template, &table, &policies, &mut findings)?;
    counters(&agent, &site, &mut findings)?;
    cut(&agent, &shop, &policies, &mut findings)?;
    let agent = survive(
        agent,
        arguments,
        (&site, &shop),
        &template,
        &policies,
        premises,
        &mut findings,
    )?;

    println!();
    if let Some(deployed) = &arguments.prometheus {
        prometheus::start(&site, deployed, premises)?;
    }
    if let (Some(dashboards), Some(folder)) = (&arguments.dashboards, &arguments.pictures) {
        let title = scene("pictures of the dashboards");
        let habits = Habits {
            shop: &shop,
            template: &template,
            policies: &policies,
        };
        let objections = pictures::take(
            &habits,
            &agent,
            Duration::from_secs(60 * arguments.minutes),
            [dashboards, folder],
            premises,
        )?;
        findings.object(title, objections);
        let picture = folder.join("graph.png");
        let bytes = pictures::of_graph(
            &arguments.cofferdam,
            &arguments.policies,
            &picture,
            premises,
        )?;
        println!("  {}, {bytes} bytes", picture.display());
    }
    if arguments.keep {
        look_around(arguments, premises, &agent, (&site, &shop));
    }
    let good = findings.objections.is_empty() && findings.right == findings.tried;
    println!(
        "demo: {} cells={}/{} drops_explained={} seconds={:.1}",
        if good { "ok" } else { "failed" },
        findings.right,
        findings.tried,
        findings.explained,
        started.elapsed().as_secs_f64(),
    );
    if arguments.keep {
        // Everything is held by this thread.
        loop {
            std::thread::park();
        }
    }
    Ok(good)
}

/// Copies those files of a folder of documents that are wanted.
fn copy(from: &Path, to: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let text = fs::read_to_string(entry.path()).with_context(failed)?;
        if is_wanted(&text) {
            fs::write(to.join(entry.file_name()), text).with_context(failed)?;
        }
    }
    Ok(())
}

/// Returns `true` if a file has policies in it.
fn is_policy(text: &str) -> bool {
    (text.lines()).any(|line| line.starts_with("kind:") && line.ends_with("NetworkPolicy"))
}

/// Shows the attempts of the intruder, and the agent's account of them.
fn intruder(
    agent: &Agent<'_>,
    shop: &Shop<'_>,
    template: &Template,
    table: &Reachability,
    policies: &Path,
    findings: &mut Findings,
) -> Result<()> {
    let title = scene("what the intruder tried, and what stopped it");
    agent.sync()?;
    let records = agent.records()?;
    let explained = drops::explained(INTRUDER, shop, template, table, &records, policies)?;
    for line in &explained.lines {
        println!("  {line}");
    }
    findings.explained = explained.count;
    findings.object(title, explained.objections);
    if explained.count == 0 {
        findings.object(title, ["not one drop is explained".to_owned()]);
    }
    Ok(())
}

/// The counters, held against each other.
fn counters(agent: &Agent<'_>, site: &Site, findings: &mut Findings) -> Result<()> {
    let title = scene("the counters (/metrics)");
    let deadline = Instant::now() + PATIENCE;
    let (lines, [seen, allowed, dropped]) = loop {
        agent.sync()?;
        let counted = counted(&agent.metrics(site)?)?;
        let [seen, allowed, dropped] = counted.1;
        // A packet that is being judged has been seen, and no more: look again.
        if seen == allowed + dropped || Instant::now() > deadline {
            break counted;
        }
    };
    for line in lines {
        println!("  {line}");
    }
    println!("  seen {seen} = allowed {allowed} + dropped {dropped}");
    if seen != allowed + dropped || dropped == 0.0 {
        findings.object(title, ["the counters contradict what happened".to_owned()]);
    }
    Ok(())
}

/// The packet counters that are not zero, and the sums of what was seen, allowed and
/// dropped.
fn counted(metrics: &str) -> Result<(Vec<String>, [f64; 3])> {
    let names =
        ["seen", "allowed", "dropped"].map(|what| format!("cofferdam_{what}_packets_total"));
    let mut lines = Vec::new();
    let mut sums = [0.0; 3];
    for line in metrics.lines() {
        let of = |name: &String| {
            let rest = line.strip_prefix(name.as_str());
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let Some(at) = names.iter().position(of) else {
            continue;
        };
        let value: f64 = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .with_context(|| format!("no number in `{line}`"))?;
        if value > 0.0 {
            lines.push(line.to_owned());
        }
        sums[at] += value;
    }
    Ok((lines, sums))
}

/// A rule is removed while a connection that it allowed is open.
fn cut(agent: &Agent<'_>, shop: &Shop<'_>, policies: &Path, findings: &mut Findings) -> Result<()> {
    let title = scene("a rule is removed under open connections");
    let (source, destination, port, file) = CUT;
    let from = shop.member(source)?;
    let to = shop.member(destination)?;
    let mut talks = Vec::new();
    for family in Family::BOTH {
        let mut talk = Conversation::tcp(from, to.ip(family), port, PATIENCE)
            .with_context(|| format!("{source} cannot connect to {destination}"))?;
        talk.exchange(b"one", PATIENCE).context("no answer")?;
        talks.push((family, talk));
    }
    println!("  {source} talks to {destination} on {port}, over IPv4 and IPv6");
    let path = policies.join(file);
    let before = fs::read_to_string(&path).context("cannot read a policy")?;
    fs::write(&path, without_ingress(&before)?).context("cannot write a policy")?;
    let asked = Instant::now();
    let revision = agent.sync()?;
    println!(
        "  {file}: `ingress: []`; in force after {} ms (revision {revision})",
        asked.elapsed().as_millis()
    );
    for (family, talk) in &mut talks {
        match talk.exchange(b"two", SILENCE) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                println!("  {family}: no answer any more");
            }
            other => findings.object(title, [format!("{family}: not cut: {other:?}")]),
        }
    }
    agent.sync()?;
    match drops::why([from, to], CUT_PROBE, &agent.records()?, policies) {
        Ok(text) => println!("  {text}"),
        Err(objection) => findings.object(title, [objection]),
    }
    fs::write(&path, before).context("cannot write a policy")?;
    agent.sync()?;
    for family in Family::BOTH {
        let outcome = probe(from, to.ip(family), CUT_PROBE, PATIENCE)?;
        if outcome != Outcome::Reached(destination.to_owned()) {
            findings.object(title, [format!("{family}: still cut: {outcome}")]);
        }
    }
    println!("  the rule is back: {source} reaches {destination} again");
    Ok(())
}

/// The document without its ingress rules.
fn without_ingress(text: &str) -> Result<String> {
    let mut document: serde_yaml::Value = serde_yaml::from_str(text)?;
    let spec = document.get_mut("spec").context("a policy has a spec")?;
    let ingress = spec.get_mut("ingress").context("it has ingress rules")?;
    *ingress = serde_yaml::Value::Sequence(Vec::new());
    Ok(serde_yaml::to_string(&document)?)
}

/// The agent is killed; what it put in force stays. Another one takes over.
fn survive<'p>(
    agent: Agent<'p>,
    arguments: &Arguments,
    (site, shop): (&Site, &Shop<'_>),
    template: &Template,
    policies: &Path,
    premises: &'p Premises,
    findings: &mut Findings,
) -> Result<Agent<'p>> {
    let title = scene("the agent is killed");
    println!("  kill -9 {}", agent.process());
    agent.kill();
    let stated = |question: &Question| {
        let expected = template.expected.get(question);
        expected.is_some_and(|expected| expected.allowed)
    };
    let table = Reachability::tried(shop, template, stated)?;
    findings.take(title, &table);
    let (right, tried) = table.count();
    println!("  without an agent, {right} of {tried} cells are as stated");
    let agent = Agent::start(&arguments.cofferdam, site, policies, premises)?;
    let status = agent.wait()?;
    let taken = status["endpoints"].as_array().map_or(0, |endpoints| {
        let enforced = endpoints.iter().filter(|one| one["state"] == "enforced");
        enforced.count()
    });
    let all = shop.workloads().count();
    println!("  another agent runs; it has taken over {taken} of {all} workloads");
    if taken != all {
        findings.object(title, ["workloads are left without an agent".to_owned()]);
    }
    Ok(agent)
}

/// Tells how to look around in the things that are left standing, and how to end them.
fn look_around(
    arguments: &Arguments,
    premises: &Premises,
    agent: &Agent<'_>,
    (site, shop): (&Site, &Shop<'_>),
) {
    let own = process::id();
    let cofferdam = arguments.cofferdam.display();
    let path = premises.run_dir();
    let run_dir = path.display();
    println!("The shop is left standing. To look around, as root:");
    println!("  {cofferdam} status --run-dir {run_dir}");
    println!("  {cofferdam} observe -f --run-dir {run_dir}");
    println!(
        "  nsenter --net={} ip address      # the node",
        site.node.path().display()
    );
    for member in &shop.members {
        let path = member.namespace().path();
        println!(
            "  nsenter --net={} bash      # {}",
            path.display(),
            member.name
        );
    }
    println!(
        "  nsenter --target {own} --mount ls {}",
        premises.bpffs().display()
    );
    println!(
        "Policies lie in {}, the agent (process {}) writes to {}.",
        premises.folder().join("policies").display(),
        agent.process(),
        Agent::log(premises).display()
    );
    if arguments.prometheus.is_some() {
        println!(
            "Prometheus is at http://{}, with alerts; the dashboards are in deploy/grafana.",
            prometheus::ADDRESS
        );
    }
    println!("To clean up: kill {own}");
}
