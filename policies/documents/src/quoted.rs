//! Text in quotes, as JSON and YAML both read it.

use std::fmt::{self, Display, Formatter, Write as _};

/// A text as a string of JSON, which is one of YAML too.
pub(super) struct Quoted<'t>(pub(super) &'t str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                _ if character.is_control() => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_syntax::yaml::{self, Value};

    use super::*;

    #[test]
    fn what_is_quoted_is_read_as_it_was() {
        for text in ["", "no", "1.2", "a\"b\\c\nd", "\u{85}\u{1b}\0", "ä€😀"] {
            let quoted = Quoted(text).to_string();
            let mut documents = yaml::parse(&quoted).into_iter();
            let document = documents.next().expect("a document").expect("valid YAML");
            assert!(
                matches!(&document.value, Value::Text(read) if read == text),
                "{quoted}: {:?}",
                document.value
            );
        }
    }
}
