//! Warnings that the author says are meant.
//!
//! `# cofferdam: allow CD0510` at the end of the line of a warning, or on the line
//! before it with nothing else there, takes the warning away; several codes stand
//! with commas between them.
//!
//! Invariant: an error stays, whatever is written beside it.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Severity};
use crate::documents::Source;

/// What begins the comment.
const ALLOW: &str = "cofferdam: allow ";

/// The findings but those that a comment in their text allows.
#[must_use]
pub fn without_allowed(sources: &[Source], diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut lines: HashMap<&str, Vec<&str>> = HashMap::new();
    for source in sources {
        if let Ok(text) = std::str::from_utf8(&source.text)
            && text.contains(ALLOW)
        {
            lines.insert(&source.file, text.lines().collect());
        }
    }
    let is_allowed = |diagnostic: &Diagnostic| {
        let place = &diagnostic.place;
        let Some(lines) = lines.get(&*place.file) else {
            return false;
        };
        let line = |number: usize| number.checked_sub(1).and_then(|index| lines.get(index));
        let number = place.line as usize;
        let own = line(number).is_some_and(|line| allows(line, diagnostic));
        let before = line(number.saturating_sub(1))
            .is_some_and(|line| line.trim_start().starts_with('#') && allows(line, diagnostic));
        own || before
    };
    diagnostics
        .into_iter()
        .filter(|one| one.severity == Severity::Error || !is_allowed(one))
        .collect()
}

/// Whether a line's comment lists the code of a finding.
fn allows(line: &str, diagnostic: &Diagnostic) -> bool {
    // A `#` within a value has no blank before it.
    let comment = (line.match_indices('#'))
        .filter(|(at, _)| *at == 0 || line[..*at].ends_with([' ', '\t']))
        .find_map(|(at, _)| line[at + 1..].trim_start().strip_prefix(ALLOW));
    comment
        .is_some_and(|codes| (codes.split([',', ' '])).any(|code| code == diagnostic.code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::{Code, Place};

    fn left(text: &str, line: u32, code: Code, severity: Severity) -> bool {
        let sources = [Source::new("a.yaml".into(), text.as_bytes().into())];
        let diagnostic = Diagnostic {
            place: Place {
                file: "a.yaml".into(),
                line,
                column: 1,
            },
            code,
            severity,
            message: String::new(),
            hint: None,
        };
        !without_allowed(&sources, vec![diagnostic]).is_empty()
    }

    #[test]
    fn a_comment_allows_the_codes_it_lists_at_its_place_alone() {
        let text =
            "a: 1 # cofferdam: allow CD0510, CD0507\n# cofferdam: allow CD0501\nb: 1\nc: 1\n";
        let warned = |line, code| left(text, line, code, Severity::Warning);
        assert!(!warned(1, Code::NotIsolated));
        assert!(!warned(1, Code::BlockCoversWorkloads));
        assert!(warned(1, Code::SubjectEmpty));
        // A comment behind something is about that line alone.
        assert!(warned(2, Code::NotIsolated));
        assert!(!warned(3, Code::SubjectEmpty));
        assert!(warned(4, Code::SubjectEmpty));
    }

    #[test]
    fn an_error_is_not_allowed_and_a_value_is_no_comment() {
        let text = "a: b#cofferdam: allow CD0510\nc: 1 # cofferdam: allow CD0510\n";
        assert!(left(text, 1, Code::NotIsolated, Severity::Warning));
        assert!(left(text, 2, Code::NotIsolated, Severity::Error));
        assert!(!left(text, 2, Code::NotIsolated, Severity::Warning));
    }
}
