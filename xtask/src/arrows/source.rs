//! Paths that a Rust source names.
//!
//! Not a compiler: it reads tokens, not types, and follows no macro. That is enough
//! to hold a rule like "this module names nothing of that one", provided that the
//! doubtful cases count as use. They do: an import of everything, another file
//! brought in by `include!` or `#[path]`.
//!
//! Comments, strings and everything under `#[cfg(test)]` are left out.

/// One path that a source names, with `crate`, `self` and `super` resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Its segments, the crate's name first where it is known; `*` for all.
    pub(crate) path: Vec<String>,
    /// For a `pub use`: the name under which it is passed on, `*` for all.
    pub(crate) exported_as: Option<String>,
}

/// Paths and modules of one source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// Every path outside test code.
    pub(crate) uses: Vec<Use>,
    /// Child modules that exist in tests only.
    pub(crate) test_modules: Vec<Vec<String>>,
    /// Child modules, `mod name;` or `mod name { … }`.
    pub(crate) modules: Vec<Vec<String>>,
}

/// Reads `text`, the file of `module`: the crate's name, then the module's path.
pub(crate) fn read(text: &str, module: &[String]) -> Source {
    let tokens = tokens(text);
    let mut source = Source::default();
    if tokens
        .windows(2)
        .any(|pair| pair[0].is("#") && pair[1].is("!"))
        && test_attribute_at(&tokens, 0, true).is_some()
    {
        return source;
    }
    declare_modules(&tokens, module, &mut source);
    Reader {
        tokens: &tokens,
        source: &mut source,
    }
    .items(0, tokens.len(), module.to_vec());
    source
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }

    fn is_word(&self) -> bool {
        self.text
            .starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Words and punctuation of `text`; `::` is one token. No comments, and no
/// literals but numbers.
fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        let next = characters.get(at + 1).copied().unwrap_or('\0');
        let end = if character.is_whitespace() {
            at + 1
        } else if character == '/' && next == '/' {
            find(&characters, at, |rest| rest.starts_with(&['\n']))
        } else if character == '/' && next == '*' {
            block_comment(&characters, at)
        } else if let Some(end) = raw_string(&characters, at) {
            end
        } else if character == '"' {
            quoted(&characters, at + 1, '"')
        } else if character == '\'' {
            character_or_lifetime(&characters, at)
        } else if character.is_alphanumeric() || character == '_' {
            let end = find(&characters, at, |rest| {
                !(rest[0].is_alphanumeric() || rest[0] == '_')
            });
            let word: String = characters[at..end].iter().collect();
            // `b"…"`, `c"…"`: the letter belongs to the literal.
            if !(end - at == 1 && characters.get(end) == Some(&'"')) {
                tokens.push(Token { line, text: word });
            }
            end
        } else if character == ':' && next == ':' {
            tokens.push(Token {
                line,
                text: "::".to_owned(),
            });
            at + 2
        } else {
            tokens.push(Token {
                line,
                text: character.to_string(),
            });
            at + 1
        };
        line += characters[at..end]
            .iter()
            .filter(|passed| **passed == '\n')
            .count();
        at = end;
    }
    tokens
}

/// First place from `at` on where `fits`, or the end.
fn find(characters: &[char], at: usize, fits: impl Fn(&[char]) -> bool) -> usize {
    (at..characters.len())
        .find(|place| fits(&characters[*place..]))
        .unwrap_or(characters.len())
}

fn block_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < characters.len() {
        let pair = (
            characters[at],
            characters.get(at + 1).copied().unwrap_or('\0'),
        );
        match pair {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(characters.len())
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` at `at`, if that is what stands there; not
/// of the raw identifier `r#type`.
fn raw_string(characters: &[char], at: usize) -> Option<usize> {
    let rest = &characters[at..];
    let prefix = match rest {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    if at > 0 && (characters[at - 1].is_alphanumeric() || characters[at - 1] == '_') {
        return None;
    }
    let hashes = rest[prefix..]
        .iter()
        .take_while(|character| **character == '#')
        .count();
    if rest.get(prefix + hashes) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let body = at + prefix + hashes + 1;
    let end = find(characters, body, |rest| rest.starts_with(&close));
    Some((end + close.len()).min(characters.len()))
}

fn quoted(characters: &[char], from: usize, close: char) -> usize {
    let mut at = from;
    while let Some(&character) = characters.get(at) {
        at += if character == '\\' { 2 } else { 1 };
        if character == close {
            break;
        }
    }
    at.min(characters.len())
}

/// `'a'` and `'\n'` are literals, `'a` is a lifetime.
fn character_or_lifetime(characters: &[char], at: usize) -> usize {
    match characters.get(at + 1..) {
        Some(['\\', ..]) => quoted(characters, at + 1, '\''),
        Some([_, '\'', ..]) => at + 3,
        _ => at + 1,
    }
}

/// Finds `#[…]` (or `#![…]`) at `at` if it says "in tests only", and returns where it ends.
fn test_attribute_at(tokens: &[Token], at: usize, inner: bool) -> Option<usize> {
    let mut place = at + 1;
    if !tokens.get(at)?.is("#") {
        return None;
    }
    if inner {
        if !tokens.get(place)?.is("!") {
            return None;
        }
        place += 1;
    }
    if !tokens.get(place)?.is("[") {
        return None;
    }
    let end = closing(tokens, place);
    let words = &tokens[place + 1..end.min(tokens.len())];
    let is_test = words
        .first()
        .is_some_and(|word| word.is("test") || word.is("bench"))
        || (words.first().is_some_and(|word| word.is("cfg"))
            && words.iter().any(|word| word.is("test"))
            // `not(test)` is the opposite, and `any(test, …)` is more.
            && !words.iter().any(|word| word.is("not") || word.is("any")));
    is_test.then_some(end + 1)
}

/// Place of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// Place behind the item that starts at `at`.
fn item_end(tokens: &[Token], at: usize) -> usize {
    let mut place = at;
    // Attributes and visibility, which may have brackets of their own.
    while let Some(token) = tokens.get(place) {
        place = match token.text.as_str() {
            "#" | "pub" => place + 1,
            "[" | "(" => closing(tokens, place) + 1,
            _ => break,
        };
    }
    // The braces of an import are not the end of it.
    let is_use = tokens.get(place).is_some_and(|token| token.is("use"));
    while let Some(token) = tokens.get(place) {
        match token.text.as_str() {
            ";" => return place + 1,
            "{" if !is_use => return closing(tokens, place) + 1,
            "(" | "[" | "{" => place = closing(tokens, place) + 1,
            _ => place += 1,
        }
    }
    tokens.len()
}

/// Notes every `mod name`, and whether it exists in tests only.
fn declare_modules(tokens: &[Token], module: &[String], source: &mut Source) {
    for at in 0..tokens.len() {
        if !tokens[at].is("mod") || !tokens.get(at + 1).is_some_and(Token::is_word) {
            continue;
        }
        let mut child = module.to_vec();
        child.push(tokens[at + 1].text.clone());
        source.modules.push(child.clone());
        // Back over `pub(crate)` and over attributes that do not say "test".
        let item = (0..at)
            .rev()
            .take_while(|place| {
                let token = &tokens[*place];
                !(token.is(";") || token.is("}") || token.is("{"))
            })
            .find(|place| test_attribute_at(tokens, *place, false).is_some());
        if item.is_some() {
            source.test_modules.push(child);
        }
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    source: &'a mut Source,
}

impl Reader<'_> {
    /// Reads tokens `at..end`, which lie in `module`.
    fn items(&mut self, mut at: usize, end: usize, module: Vec<String>) {
        let tokens = self.tokens;
        while at < end {
            let token = &tokens[at];
            if let Some(after) = test_attribute_at(tokens, at, false) {
                at = item_end(tokens, after);
            } else if token.is("#") && tokens.get(at + 1).is_some_and(|token| token.is("[")) {
                self.attribute(at + 1);
                at = closing(tokens, at + 1) + 1;
            } else if token.is("use") {
                let stop = item_end(tokens, at).min(end);
                let exported = is_exported(tokens, at);
                self.tree(at + 1, stop, &[], &module, exported);
                at = stop;
            } else if token.is("mod") && tokens.get(at + 2).is_some_and(|token| token.is("{")) {
                let close = closing(tokens, at + 2);
                let mut inner = module.clone();
                inner.push(tokens[at + 1].text.clone());
                self.items(at + 3, close.min(end), inner);
                at = close + 1;
            } else if token.is("mod") {
                at += 2;
            } else if token.is("include") && tokens.get(at + 1).is_some_and(|token| token.is("!")) {
                self.push(token.line, vec!["include!".to_owned()], None);
                at += 2;
            } else if token.is_word() && !(at > 0 && tokens[at - 1].is(".")) {
                at = self.path(at, &module);
            } else {
                at += 1;
            }
        }
    }

    /// `#[path = …]` brings in a file whose place says nothing about its module.
    fn attribute(&mut self, open: usize) {
        let tokens = self.tokens;
        if tokens.get(open + 1).is_some_and(|token| token.is("path"))
            && tokens.get(open + 2).is_some_and(|token| token.is("="))
        {
            self.push(tokens[open].line, vec!["#[path]".to_owned()], None);
        }
    }

    /// A path in an expression, a type or a macro; returns the place behind it.
    fn path(&mut self, at: usize, module: &[String]) -> usize {
        let tokens = self.tokens;
        let mut segments = vec![tokens[at].text.clone()];
        let mut place = at + 1;
        while tokens.get(place).is_some_and(|token| token.is("::"))
            && tokens.get(place + 1).is_some_and(Token::is_word)
        {
            segments.push(tokens[place + 1].text.clone());
            place += 2;
        }
        // A single word is a name of this file, unless it follows `extern crate`.
        let external = at > 0 && tokens[at - 1].is("crate");
        if segments.len() > 1 || external {
            let path = self.resolve(&segments, module);
            self.push(tokens[at].line, path, None);
        }
        place
    }

    /// The tree of a `use` between `at` and `end`, under `prefix`.
    fn tree(
        &mut self,
        mut at: usize,
        end: usize,
        prefix: &[String],
        module: &[String],
        exported: bool,
    ) {
        let tokens = self.tokens;
        while at < end {
            let line = tokens[at].line;
            let mut path = prefix.to_vec();
            let mut renamed = None;
            let mut group = false;
            while at < end {
                let token = &tokens[at];
                if token.is("{") {
                    let close = closing(tokens, at).min(end);
                    self.tree(at + 1, close, &path, module, exported);
                    group = true;
                    at = close + 1;
                } else if token.is(",") || token.is(";") {
                    break;
                } else if token.is("as") {
                    renamed = tokens.get(at + 1).map(|token| token.text.clone());
                    at += 2;
                } else {
                    // `a::{self}` is `a`; a leading `self` is kept to be resolved.
                    let inner_self = token.is("self") && !path.is_empty();
                    if !inner_self && !token.is("::") {
                        path.push(token.text.clone());
                    }
                    at += 1;
                }
            }
            at += 1;
            if !group && !path.is_empty() {
                let name = renamed.or_else(|| path.last().cloned());
                let path = self.resolve(&path, module);
                self.push(line, path, name.filter(|_| exported));
            }
        }
    }

    /// `segments` with the crate's name in front, where they begin with a word that
    /// says so or with a child of `module`.
    fn resolve(&self, segments: &[String], module: &[String]) -> Vec<String> {
        let mut base = match segments[0].as_str() {
            "crate" => module[..1].to_vec(),
            "self" | "super" => module.to_vec(),
            first => {
                let mut child = module.to_vec();
                child.push(first.to_owned());
                if !self.source.modules.contains(&child) {
                    return segments.to_vec();
                }
                module.to_vec()
            }
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                // The root has no parent; such a path does not compile.
                "super" => base.truncate((base.len() - 1).max(1)),
                name => base.push(name.to_owned()),
            }
        }
        base
    }

    fn push(&mut self, line: usize, path: Vec<String>, exported_as: Option<String>) {
        self.source.uses.push(Use {
            line,
            path,
            exported_as,
        });
    }
}

/// Returns `true` if the `use` at `at` has a `pub` before it.
fn is_exported(tokens: &[Token], at: usize) -> bool {
    let before: Vec<&str> = tokens[..at]
        .iter()
        .rev()
        .take(5)
        .map(|token| token.text.as_str())
        .collect();
    match before[..] {
        ["pub", ..] => true,
        // `pub(crate)`, and `pub(in path)` of one segment.
        [")", _, "(", "pub", ..] | [")", _, _, "(", "pub"] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Vec<String> {
        path.split("::").map(str::to_owned).collect()
    }

    /// Paths in `text`, as the file of module `a::m`.
    fn paths(text: &str) -> Vec<String> {
        read(text, &module("a::m"))
            .uses
            .iter()
            .map(|used| used.path.join("::"))
            .collect()
    }

    #[test]
    fn trees_are_taken_apart() {
        assert_eq!(
            paths("use crate::{b::{self, C}, d::*}; pub(crate) use super::e as f;"),
            ["a::b", "a::b::C", "a::d::*", "a::e"]
        );
    }

    #[test]
    fn paths_in_code_are_found_and_words_alone_are_not() {
        assert_eq!(
            paths("fn f(x: crate::b::C) -> u8 { other::g::<super::h::T>(x.self_::y) + alone }"),
            ["a::b::C", "other::g", "a::h::T"]
        );
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r###"
            // crate::a::x
            /* crate::a::x /* crate::a::x */ crate::a::x */
            const S: &str = "crate::a::x \" crate::a::x";
            const R: &str = r#"crate::a::x " crate::a::x"#;
            const B: &[u8] = b"crate::a::x";
            const C: char = '"'; const D: char = '\''; fn f<'a>(x: &'a crate::found::T) {}
        "###;
        assert_eq!(paths(text), ["a::found::T"]);
    }

    #[test]
    fn lines_are_counted_across_literals_and_comments() {
        let source = read(
            "/*\n\n*/ const S: &str = \"\n\";\nuse crate::b;\n",
            &module("a"),
        );
        assert_eq!(source.uses[0].line, 5);
    }

    #[test]
    fn test_code_is_left_out() {
        let text = "#[cfg(test)] use crate::x::{A, B};\n#[test] fn t() { crate::y::z() }\n\
                    #[cfg(test)] mod tests { use super::*; }\n#[cfg(test)] mod apart;\n\
                    #[cfg(not(test))] use crate::found;";
        let source = read(text, &module("a::m"));
        assert_eq!(source.uses.len(), 1, "{source:?}");
        assert_eq!(source.uses[0].path, module("a::found"));
        assert_eq!(
            source.test_modules,
            [module("a::m::tests"), module("a::m::apart")]
        );
    }

    #[test]
    fn test_code_ends_where_its_item_ends() {
        for item in [
            "mod tests { use super::*; fn f() {} }",
            "#[path] pub(crate) mod tests { use super::*; }",
            "pub(crate) use crate::{x, y};",
            "fn f(x: [u8; 2]) -> X { X { a: [0; 2] } }",
            "impl X for Y { const Z: [u8; 1] = [0]; }",
            "static X: [u8; 1] = [{ 1 }];",
            "struct X;",
            "mod apart;",
        ] {
            let text = format!("#[cfg(test)] {item} fn after() {{ crate::found::f() }}");
            assert_eq!(paths(&text), ["a::found::f"], "{item}");
        }
    }

    #[test]
    fn a_file_can_be_test_code_as_a_whole() {
        assert_eq!(paths("#![cfg(test)]\nuse crate::b;"), Vec::<String>::new());
    }

    #[test]
    fn an_inner_module_shifts_super() {
        assert_eq!(
            paths("mod inner { use super::b; use super::super::c; }"),
            ["a::m::b", "a::c"]
        );
    }

    #[test]
    fn a_child_module_needs_no_self() {
        let source = read("mod b; pub use b::C as D; use other::E;", &module("a"));
        assert_eq!(source.uses[0].path, module("a::b::C"));
        assert_eq!(source.uses[0].exported_as.as_deref(), Some("D"));
        assert_eq!(source.uses[1].path, module("other::E"));
        assert_eq!(source.uses[1].exported_as, None);
    }

    #[test]
    fn ways_around_the_module_tree_are_seen() {
        assert_eq!(
            paths("#[path = \"../x.rs\"] mod y; include!(\"../x.rs\"); extern crate z as w;"),
            ["#[path]", "include!", "z"]
        );
    }
}
