//! Reports of tests beside "passed", held against the records.
//!
//! Two things would otherwise get worse unnoticed: a test that skips itself
//! because the kernel lacks something, and a kernel program that grows until some
//! verifier refuses it. Tests write both into files named by the environment; the
//! record of what is accepted lies in the repository, so that a change of it is
//! part of the review.
//!
//! Invariant: nothing is accepted silently. The record changes only by `--bless`
//! or by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow};

/// Variable naming the file to which a test appends `feature<TAB>test` when it
/// skips itself.
pub(crate) const SKIPS: &str = "COFFERDAM_SKIPS";
/// Variable naming the file to which tests append
/// `program<TAB>instructions<TAB>stack`, both as the verifier counts them.
pub(crate) const VERIFIED: &str = "COFFERDAM_VERIFIED";

/// File of the numbers of accepted skips, by kernel series.
const SKIPS_RECORD: &str = "xtask/skips.txt";
/// File of the costs of programs to the verifier, by kernel series and program.
const VERIFIED_RECORD: &str = "dataplane/verified-instructions.txt";

/// Growth over the record that passes, in percent. Compilers differ a little
/// between their versions; a new loop or a new inlined call costs more than this.
const GROWTH_PERCENT: u64 = 10;

/// Head of the record of instructions, when there is none yet.
const VERIFIED_HEAD: &str = "\
# What each kernel program costs the verifier: kernel series, program, instructions
# walked, bytes of stack on the deepest way through its functions. The verifier gives up
# at one million, and at 512.
# Instructions that grow by more than 10 %, and stack that grows at all, fail the tests;
# `cargo xtask test --bless` and `cargo xtask test-vm KERNEL --bless` accept what they
# measure.
";

/// Cost of a program to the verifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Instructions walked.
    instructions: u64,
    /// Bytes of stack, with those of the functions that it calls.
    stack: u64,
}

impl Cost {
    fn parse(instructions: &str, stack: &str) -> Option<Self> {
        Some(Self {
            instructions: instructions.parse().ok()?,
            stack: stack.parse().ok()?,
        })
    }

    /// The greater number of either kind.
    fn max(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.max(other.instructions),
            stack: self.stack.max(other.stack),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.instructions, self.stack)
    }
}

/// Reports of the tests on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// `(feature, test)`, each once.
    pub(crate) skips: BTreeSet<(String, String)>,
    /// Cost by program; the greatest where several tests loaded it.
    pub(crate) verified: BTreeMap<String, Cost>,
}

impl Reported {
    /// Reads the two reports as tests write them; a report that does not parse is
    /// an error of the test that wrote it.
    pub(crate) fn parse(skips: &str, verified: &str) -> Result<Self> {
        let mut reported = Self::default();
        for line in skips.lines().filter(|line| !line.is_empty()) {
            let (feature, test) = line
                .split_once('\t')
                .with_context(|| format!("`{line}` in {SKIPS} is not `feature<TAB>test`"))?;
            reported.skips.insert((feature.to_owned(), test.to_owned()));
        }
        for line in verified.lines().filter(|line| !line.is_empty()) {
            let words = line.split('\t').collect::<Vec<_>>();
            let read = match words[..] {
                [program, instructions, stack] => {
                    Cost::parse(instructions, stack).map(|cost| (program, cost))
                }
                _ => None,
            };
            let (program, cost) = read.with_context(|| {
                format!("`{line}` in {VERIFIED} is not `program<TAB>number<TAB>number`")
            })?;
            let greatest = reported.verified.entry(program.to_owned()).or_default();
            *greatest = greatest.max(cost);
        }
        Ok(reported)
    }

    /// Returns the number of tests that skipped themselves, whatever they lacked.
    pub(crate) fn skipped_tests(&self) -> usize {
        self.skips
            .iter()
            .map(|(_, test)| test)
            .collect::<BTreeSet<_>>()
            .len()
    }
}

/// Place in which the tests of one run ran, which decides how strict the record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine, whose kernel is whatever it is: a series that has no
    /// record at all is only shown.
    Host,
    /// In a virtual machine, on a kernel that somebody chose.
    Machine,
}

/// Comparison of a run with the record.
pub(crate) struct Comparison<'a> {
    /// The repository.
    pub(crate) root: &'a Path,
    /// Kernel series the tests ran on.
    pub(crate) series: &'a str,
    /// Place in which they ran.
    pub(crate) place: Place,
    /// `true` if all tests ran, so that a test which did not report is missing.
    pub(crate) complete: bool,
}

impl Comparison<'_> {
    /// Prints what was reported, and returns every objection.
    pub(crate) fn objections(&self, reported: &Reported) -> Result<Vec<String>> {
        let mut objections = self.skip_objections(reported)?;
        objections.extend(self.verified_objections(reported)?);
        Ok(objections)
    }

    /// Puts the measured costs on record; the lines of other series stay.
    pub(crate) fn bless(&self, reported: &Reported) -> Result<()> {
        if reported.verified.is_empty() {
            return Err(anyhow!(
                "--bless has nothing to record: no test wrote to {VERIFIED}"
            ));
        }
        let path = self.root.join(VERIFIED_RECORD);
        let old = read_if_there(&path)?;
        let new = rewritten(&old, self.series, &reported.verified)?;
        fs::write(&path, new).with_context(|| format!("cannot write {VERIFIED_RECORD}"))?;
        println!(
            "record: {} programs of Linux {} in {VERIFIED_RECORD}",
            reported.verified.len(),
            self.series
        );
        Ok(())
    }

    fn skip_objections(&self, reported: &Reported) -> Result<Vec<String>> {
        let record = read_if_there(&self.root.join(SKIPS_RECORD))?;
        let accepted = accepted_skips(&record, self.series)?;
        let count = reported.skips.len();
        print!("{}", skip_summary(self.series, reported));
        if count > accepted {
            return Ok(vec![format!(
                "Linux {}: {count} skips, {accepted} accepted: mend what is missing, or accept \
                 them with the line `{} {count}` in {SKIPS_RECORD}",
                self.series, self.series
            )]);
        }
        if count < accepted && self.complete {
            println!(
                "record: fewer skips than accepted ({count} of {accepted}): lower Linux {} in \
                 {SKIPS_RECORD}",
                self.series
            );
        }
        Ok(Vec::new())
    }

    fn verified_objections(&self, reported: &Reported) -> Result<Vec<String>> {
        let text = read_if_there(&self.root.join(VERIFIED_RECORD))?;
        let all = verified_record(&text)?;
        let record = all.get(self.series);
        let how = match self.place {
            Place::Host => "cargo xtask test --bless".to_owned(),
            Place::Machine => format!("cargo xtask test-vm {} --bless", self.series),
        };
        let mut objections = Vec::new();
        for (program, cost) in &reported.verified {
            let known = record.and_then(|record| record.get(program));
            println!(
                "verified: Linux {} {program} {cost}{}",
                self.series,
                known.map_or_else(
                    || " (no record)".to_owned(),
                    |known| format!(" (record {known})")
                )
            );
            let Some(known) = known else {
                if record.is_some() || self.place == Place::Machine {
                    objections.push(format!(
                        "Linux {}: {program} has no record of what it costs the verifier: accept \
                         {cost} with `{how}`",
                        self.series
                    ));
                }
                continue;
            };
            if cost.instructions * 100 > known.instructions * (100 + GROWTH_PERCENT) {
                objections.push(format!(
                    "Linux {}: {program} grew from {} to {} verified instructions, more than \
                     {GROWTH_PERCENT} %: make it smaller, or accept with `{how}`",
                    self.series, known.instructions, cost.instructions
                ));
            }
            if cost.stack > known.stack {
                objections.push(format!(
                    "Linux {}: {program} grew from {} to {} bytes of stack, of 512: make it \
                     smaller, or accept with `{how}`",
                    self.series, known.stack, cost.stack
                ));
            }
        }
        if self.complete {
            for (program, known) in record.into_iter().flatten() {
                if !reported.verified.contains_key(program) {
                    objections.push(format!(
                        "Linux {}: no test reported {program}, on record with {known}: if the program is gone, accept with `{how}`",
                        self.series
                    ));
                }
            }
        }
        Ok(objections)
    }
}

fn read_if_there(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Lines that are not comments, as words.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(|line| {
            line.split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
        })
        .filter(|words| !words.is_empty())
}

/// Accepted skips for `series`; `*` stands for every series not named.
fn accepted_skips(text: &str, series: &str) -> Result<usize> {
    let mut by_series = BTreeMap::new();
    for words in entries(text) {
        let [name, count] = words[..] else {
            return Err(anyhow!(
                "{SKIPS_RECORD}: `{}` is not `series count`",
                words.join(" ")
            ));
        };
        let count = count
            .parse::<usize>()
            .with_context(|| format!("{SKIPS_RECORD}: `{count}` is not a number"))?;
        by_series.insert(name, count);
    }
    Ok(by_series
        .get(series)
        .or_else(|| by_series.get("*"))
        .copied()
        .unwrap_or(0))
}

/// Cost by series and program.
fn verified_record(text: &str) -> Result<BTreeMap<String, BTreeMap<String, Cost>>> {
    let mut record: BTreeMap<String, BTreeMap<String, Cost>> = BTreeMap::new();
    for words in entries(text) {
        let read = match words[..] {
            [series, program, instructions, stack] => {
                Cost::parse(instructions, stack).map(|cost| (series, program, cost))
            }
            _ => None,
        };
        let (series, program, cost) = read.with_context(|| {
            format!(
                "{VERIFIED_RECORD}: `{}` is not `series program instructions stack`",
                words.join(" ")
            )
        })?;
        record
            .entry(series.to_owned())
            .or_default()
            .insert(program.to_owned(), cost);
    }
    Ok(record)
}

/// The record with the lines of `series` replaced.
fn rewritten(old: &str, series: &str, verified: &BTreeMap<String, Cost>) -> Result<String> {
    let mut record = verified_record(old)?;
    record.insert(series.to_owned(), verified.clone());
    let head: String = old
        .lines()
        .take_while(|line| line.starts_with('#') || line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect();
    let mut text = if old.is_empty() {
        VERIFIED_HEAD.to_owned()
    } else {
        head
    };
    let mut ordered: Vec<_> = record.iter().collect();
    // 6.12 comes after 6.6.
    ordered.sort_by_key(|(series, _)| {
        series
            .split('.')
            .map(|number| number.parse::<u32>().unwrap_or(0))
            .collect::<Vec<_>>()
    });
    for (series, programs) in ordered {
        for (program, cost) in programs {
            let _ = writeln!(text, "{series} {program} {cost}");
        }
    }
    Ok(text)
}

/// Skips by feature, most first, each with the tests that lacked it.
fn skip_summary(series: &str, reported: &Reported) -> String {
    let mut by_feature: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (feature, test) in &reported.skips {
        by_feature.entry(feature).or_default().push(test);
    }
    let mut ordered: Vec<_> = by_feature.into_iter().collect();
    ordered.sort_by_key(|(_, tests)| std::cmp::Reverse(tests.len()));
    let mut text = format!("skips: Linux {series}: {}\n", reported.skips.len());
    for (feature, tests) in ordered {
        let _ = writeln!(
            text,
            "skips:   {} for want of {feature}: {}",
            tests.len(),
            tests.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(instructions: u64, stack: u64) -> Cost {
        Cost {
            instructions,
            stack,
        }
    }

    /// Makes the report of a run about programs with 64 bytes of stack.
    fn verified(pairs: &[(&str, u64)]) -> Reported {
        Reported {
            verified: pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), cost(*count, 64)))
                .collect(),
            ..Reported::default()
        }
    }

    /// A repository with these two records.
    struct Repository(tempfile::TempDir);

    impl Repository {
        fn new(skips: &str, verified: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            fs::create_dir_all(root.join("xtask")).unwrap();
            fs::create_dir_all(root.join("dataplane")).unwrap();
            fs::write(root.join(SKIPS_RECORD), skips).unwrap();
            fs::write(root.join(VERIFIED_RECORD), verified).unwrap();
            Self(folder)
        }

        fn compare<'a>(&'a self, series: &'a str, place: Place) -> Comparison<'a> {
            Comparison {
                root: self.0.path(),
                series,
                place,
                complete: true,
            }
        }
    }

    #[test]
    fn reports_are_read_and_the_largest_count_wins() {
        let reported = Reported::parse(
            "tcx\ta\ntcx\ta\nsctp\ta\n",
            "p\t10\t96\np\t30\t32\np\t20\t64\n",
        )
        .unwrap();
        assert_eq!(reported.skips.len(), 2);
        assert_eq!(reported.skipped_tests(), 1);
        assert_eq!(reported.verified["p"], cost(30, 96));
    }

    #[test]
    fn a_malformed_report_is_an_error() {
        assert!(Reported::parse("tcx a\n", "").is_err());
        assert!(Reported::parse("", "p\tmany\t0\n").is_err());
        assert!(Reported::parse("", "p\t1\n").is_err());
    }

    #[test]
    fn more_skips_than_accepted_are_refused() {
        let repository = Repository::new("* 0\n6.1 2 # no tcx\n", "");
        let reported = |tests: &[&str]| Reported {
            skips: tests
                .iter()
                .map(|test| ("tcx".to_owned(), (*test).to_owned()))
                .collect(),
            ..Reported::default()
        };
        let count = |series, tests: &[&str]| {
            let comparison = repository.compare(series, Place::Machine);
            comparison.objections(&reported(tests)).unwrap().len()
        };
        assert_eq!(count("6.1", &["a", "b"]), 0);
        assert_eq!(count("6.1", &["a", "b", "c"]), 1);
        assert_eq!(
            count("6.18", &["a"]),
            1,
            "a series not named falls under `*`"
        );
        assert_eq!(count("6.18", &[]), 0);
    }

    #[test]
    fn growth_beyond_a_tenth_is_refused() {
        let repository = Repository::new("* 0\n", "6.1 p 1000 64\n");
        let comparison = repository.compare("6.1", Place::Machine);
        assert!(
            comparison
                .objections(&verified(&[("p", 1100)]))
                .unwrap()
                .is_empty()
        );
        let objections = comparison.objections(&verified(&[("p", 1101)])).unwrap();
        assert_eq!(objections.len(), 1);
        assert!(
            objections[0].contains("cargo xtask test-vm 6.1 --bless"),
            "{objections:?}"
        );
    }

    #[test]
    fn any_growth_of_the_stack_is_refused() {
        let repository = Repository::new("* 0\n", "6.1 p 1000 64\n");
        let comparison = repository.compare("6.1", Place::Machine);
        let mut reported = verified(&[("p", 1000)]);
        assert!(comparison.objections(&reported).unwrap().is_empty());
        reported.verified.insert("p".to_owned(), cost(1000, 65));
        let objections = comparison.objections(&reported).unwrap();
        assert_eq!(objections.len(), 1);
        assert!(
            objections[0].contains("65 bytes of stack"),
            "{objections:?}"
        );
    }

    #[test]
    fn what_is_not_on_record_is_refused_but_on_an_unknown_host() {
        let repository = Repository::new("* 0\n", "6.1 p 1000 64\n");
        let new = verified(&[("p", 1000), ("q", 5)]);
        let count = |series, place| {
            repository
                .compare(series, place)
                .objections(&new)
                .unwrap()
                .len()
        };
        assert_eq!(
            count("6.1", Place::Host),
            1,
            "a new program of a known series"
        );
        assert_eq!(
            count("6.18", Place::Host),
            0,
            "an unknown series, only shown"
        );
        assert_eq!(
            count("6.12", Place::Machine),
            2,
            "an unknown series that was asked for"
        );
    }

    #[test]
    fn a_program_nobody_measured_is_refused_unless_tests_were_left_out() {
        let repository = Repository::new("* 0\n", "6.1 p 1000 64\n6.1 q 10 64\n");
        let mut comparison = repository.compare("6.1", Place::Machine);
        assert_eq!(
            comparison
                .objections(&verified(&[("p", 1000)]))
                .unwrap()
                .len(),
            1
        );
        comparison.complete = false;
        assert_eq!(
            comparison
                .objections(&verified(&[("p", 1000)]))
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn blessing_replaces_one_series_and_satisfies_the_check() {
        let repository = Repository::new("* 0\n", "# head\n6.12 p 7 8\n6.1 gone 3 8\n6.1 p 4 8\n");
        let comparison = repository.compare("6.1", Place::Machine);
        let new = verified(&[("p", 9)]);
        assert_eq!(comparison.objections(&new).unwrap().len(), 3);
        comparison.bless(&new).unwrap();
        assert!(comparison.objections(&new).unwrap().is_empty());
        let text = fs::read_to_string(repository.0.path().join(VERIFIED_RECORD)).unwrap();
        assert_eq!(text, "# head\n6.1 p 9 64\n6.12 p 7 8\n");
    }

    #[test]
    fn a_first_record_gets_a_head() {
        let text = rewritten("", "6.1", &BTreeMap::from([("p".to_owned(), cost(1, 32))])).unwrap();
        assert_eq!(text, format!("{VERIFIED_HEAD}6.1 p 1 32\n"));
    }

    #[test]
    fn a_record_that_does_not_parse_names_its_line() {
        let error = verified_record("6.1 p 7\n").unwrap_err().to_string();
        assert!(error.contains("`6.1 p 7`"), "{error}");
        assert!(accepted_skips("6.1 many\n", "6.1").is_err());
    }
}
