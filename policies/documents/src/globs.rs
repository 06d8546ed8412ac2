//! Patterns of files that are left out, as `.gitignore` has them.
//!
//! A pattern without a slash is about names at any depth, one with a slash about paths from
//! where it stands; `*` and `?` stay within a name, `**` does not; `!` takes back what a
//! pattern before it left out, and a slash at the end is about directories alone.
//!
//! Invariant: matching takes time in proportion to pattern and path, whatever they are.

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    segments: Vec<Box<str>>,
    is_negated: bool,
    is_directory: bool,
}

impl Glob {
    /// Reads a pattern; `None` for comments and blank lines.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches(['\r', '\n', ' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (is_negated, line) = match line.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (is_directory, line) = match line.strip_suffix('/') {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let is_anchored = line.contains('/');
        let line = line.strip_prefix("./").unwrap_or(line);
        let names = line.split('/').filter(|name| !name.is_empty());
        let mut segments: Vec<Box<str>> = names.map(Box::from).collect();
        if segments.is_empty() {
            return None;
        }
        if !is_anchored {
            segments.insert(0, "**".into());
        }
        Some(Self {
            segments,
            is_negated,
            is_directory,
        })
    }

    /// Returns `true` if a path, relative to where the pattern stands, is meant.
    fn matches(&self, path: &[&str], is_directory: bool) -> bool {
        if self.is_directory && !is_directory {
            return false;
        }
        // For each number of names of the path, whether the segments so far match them.
        let mut reached = vec![false; path.len() + 1];
        reached[0] = true;
        for segment in &self.segments {
            let mut next = vec![false; path.len() + 1];
            if &**segment == "**" {
                let mut any = false;
                for (at, reached) in reached.iter().enumerate() {
                    any |= *reached;
                    next[at] = any;
                }
            } else {
                for (at, name) in path.iter().enumerate() {
                    next[at + 1] = reached[at] && name_matches(segment, name);
                }
            }
            reached = next;
        }
        reached[path.len()]
    }
}

/// Returns `true` if patterns, the last that is about it, leave a path out.
#[must_use]
pub(super) fn leaves_out(globs: &[Glob], path: &[&str], is_directory: bool) -> Option<bool> {
    let mut about = globs.iter().rev();
    about
        .find(|glob| glob.matches(path, is_directory))
        .map(|glob| !glob.is_negated)
}

/// Matches one name against a segment with `*`, `?` and `[…]`.
fn name_matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far it has reached.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('[') => class(&pattern[p..], name[n]),
            Some('\\') if p + 1 < pattern.len() => (pattern[p + 1] == name[n]).then_some(2),
            Some('?') => Some(1),
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                n += 1;
            }
            (None, Some((at, reached))) => {
                star = Some((at, reached + 1));
                p = at + 1;
                n = reached + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of a class in brackets at the start of a pattern, if it holds a character.
fn class(pattern: &[char], wanted: char) -> Option<usize> {
    let is_negated = matches!(pattern.get(1), Some('!' | '^'));
    let begin = if is_negated { 2 } else { 1 };
    let Some(length) = pattern.iter().skip(begin + 1).position(|c| *c == ']') else {
        return (wanted == '[').then_some(1);
    };
    let end = begin + 1 + length;
    let members = &pattern[begin..end];
    let mut holds = false;
    let mut at = 0;
    while at < members.len() {
        if let (Some('-'), Some(last)) = (members.get(at + 1), members.get(at + 2)) {
            holds |= (members[at]..=*last).contains(&wanted);
            at += 3;
        } else {
            holds |= members[at] == wanted;
            at += 1;
        }
    }
    (holds != is_negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(patterns: &str, path: &str) -> bool {
        let globs: Vec<Glob> = patterns.lines().filter_map(Glob::parse).collect();
        let is_directory = path.ends_with('/');
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        leaves_out(&globs, &names, is_directory).unwrap_or(false)
    }

    #[test]
    fn patterns_mean_what_they_mean_in_gitignore() {
        for (patterns, path, expected) in [
            ("charts", "a/b/charts/", true),
            ("charts/", "a/charts", false),
            ("/charts", "a/charts", false),
            ("/charts", "charts", true),
            ("a/*.yaml", "a/x.yaml", true),
            ("a/*.yaml", "a/b/x.yaml", false),
            ("a/**/x.yaml", "a/x.yaml", true),
            ("a/**/x.yaml", "a/b/c/x.yaml", true),
            ("**/test", "a/test", true),
            ("values*.y?ml", "a/values-prod.yaml", true),
            ("[a-c]?.yaml", "b1.yaml", true),
            ("[!a-c]1.yaml", "b1.yaml", false),
            ("*.yaml\n!keep.yaml", "keep.yaml", false),
            ("*.yaml\n!keep.yaml", "other.yaml", true),
            ("# *.yaml\n\n", "other.yaml", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
        ] {
            assert_eq!(out(patterns, path), expected, "{patterns} {path}");
        }
    }

    #[test]
    fn a_hard_pattern_takes_no_longer() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!out(&pattern, &"a".repeat(4000)));
        let deep = "**/".repeat(200) + "x";
        assert!(!out(&deep, &"a/".repeat(1000)));
    }
}
