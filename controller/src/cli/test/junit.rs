//! Results as JUnit XML: a suite for each `PolicyTest`, a case for each expectation.
//!
//! Documents in error are a suite of their own, since what is left out may be what an
//! expectation was about.

use std::io::{self, Write as _};

use cofferdam_answers::reach::{ExpectationReport, TestReport};
use cofferdam_protocol::output::Severity;
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::text::reasons;

/// Result of a case, in the three sorts of JUnit.
enum Verdict {
    Passed,
    /// It is not as expected: lines.
    Failed(Vec<String>),
    /// It could not be tried.
    Broken(Vec<String>),
}

struct Case {
    name: String,
    suite: String,
    file: String,
    line: u32,
    verdict: Verdict,
}

pub(super) fn report(report: &TestReport) -> io::Result<String> {
    let errors = report
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error);
    let documents: Vec<Case> = errors
        .map(|diagnostic| Case {
            name: diagnostic.code.clone(),
            suite: "documents".to_owned(),
            file: diagnostic.file.clone(),
            line: diagnostic.line,
            verdict: Verdict::Broken(vec![diagnostic.to_string()]),
        })
        .collect();
    let cases = report.expectations.iter().map(|one| case(report, one));
    let mut suites: Vec<(String, Vec<Case>)> = Vec::new();
    for case in documents.into_iter().chain(cases) {
        match suites.last_mut() {
            Some((suite, cases)) if *suite == case.suite => cases.push(case),
            _ => suites.push((case.suite.clone(), vec![case])),
        }
    }
    let all = || suites.iter().flat_map(|(_, cases)| cases);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("testsuites")
        .with_attribute(("name", "cofferdam test"))
        .with_attributes(
            counts(all())
                .iter()
                .map(|(key, count)| (*key, count.as_str())),
        )
        .write_inner_content(|writer| {
            suites
                .iter()
                .try_for_each(|(name, cases)| suite(writer, name, cases))
        })?;
    let mut text = writer.into_inner();
    text.write_all(b"\n")?;
    String::from_utf8(text).map_err(io::Error::other)
}

fn case(report: &TestReport, one: &ExpectationReport) -> Case {
    let verdict = if !one.mistakes.is_empty() {
        Verdict::Broken(one.mistakes.iter().map(ToString::to_string).collect())
    } else if one.holds {
        Verdict::Passed
    } else {
        Verdict::Failed(reasons(report, one))
    };
    let by = one.by.as_ref().map(|by| format!(" by {by}"));
    let audit = one.audit.map(|audit| format!(" audit {}", audit.as_str()));
    Case {
        name: format!(
            "{}: {} to {} {} {}{}",
            one.line,
            one.from,
            one.to,
            one.port,
            one.verdict.as_str(),
            audit.unwrap_or_default() + &by.unwrap_or_default()
        ),
        suite: one.test.clone(),
        file: one.file.clone(),
        line: one.line,
        verdict,
    }
}

/// Counts all cases, the failed and the broken ones, each under the name of its attribute.
fn counts<'c>(cases: impl Iterator<Item = &'c Case>) -> [(&'static str, String); 3] {
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for case in cases {
        tests += 1;
        match case.verdict {
            Verdict::Passed => {}
            Verdict::Failed(_) => failures += 1,
            Verdict::Broken(_) => errors += 1,
        }
    }
    [("tests", tests), ("failures", failures), ("errors", errors)]
        .map(|(key, count): (_, usize)| (key, count.to_string()))
}

fn suite(writer: &mut Writer<Vec<u8>>, name: &str, cases: &[Case]) -> io::Result<()> {
    writer
        .create_element("testsuite")
        .with_attribute(("name", &*fit(name)))
        .with_attributes(
            counts(cases.iter())
                .iter()
                .map(|(key, count)| (*key, count.as_str())),
        )
        .write_inner_content(|writer| {
            for case in cases {
                let element = writer
                    .create_element("testcase")
                    .with_attribute(("name", &*fit(&case.name)))
                    .with_attribute(("classname", &*fit(&case.suite)))
                    .with_attribute(("file", &*fit(&case.file)))
                    .with_attribute(("line", case.line.to_string().as_str()));
                let (what, lines) = match &case.verdict {
                    Verdict::Passed => {
                        element.write_empty()?;
                        continue;
                    }
                    Verdict::Failed(lines) => ("failure", lines),
                    Verdict::Broken(lines) => ("error", lines),
                };
                let first = lines.first().map_or("", String::as_str);
                element.write_inner_content(|writer| {
                    writer
                        .create_element(what)
                        .with_attribute(("message", &*fit(first)))
                        .write_text_content(BytesText::new(&fit(&lines.join("\n"))))?;
                    Ok(())
                })?;
            }
            Ok(())
        })?;
    Ok(())
}

/// Text without the characters that XML cannot have, whatever they are written as.
fn fit(text: &str) -> String {
    let fits = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    text.chars()
        .map(|c| if fits(c) { c } else { '\u{fffd}' })
        .collect()
}
