//! Findings that are meant, as the command line and files of allowances say.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cofferdam_analysis::Allowance;
use cofferdam_documents::reader::{Fields, Reader};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Severity};
use cofferdam_syntax::yaml;

/// Most bytes of a file of allowances.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// Takes away warnings of a code, `CD0510`, or those about one object,
    /// `CD0510=namespace/name`; repeat it for several.
    #[arg(long = "allow", value_name = "CODE[=OBJECT]", value_parser = allowance)]
    allowances: Vec<Allowance>,
    /// Takes away the warnings that a file lists, each with a reason and until when.
    #[arg(long = "allow-file", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Findings that are allowed today.
pub(super) struct Allowed {
    pub(super) allowances: Vec<Allowance>,
    /// Of those from a file, where they stand.
    entries: Vec<Entry>,
    /// Number of those that come from the command line, and stand before them.
    given: usize,
    /// Entries that have expired.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// An entry of a file of allowances.
struct Entry {
    place: cofferdam_syntax::diagnostic::Place,
}

impl Allowed {
    pub(super) fn read(args: &AllowArgs) -> Result<Self> {
        let mut allowed = Self {
            allowances: args.allowances.clone(),
            entries: Vec::new(),
            given: args.allowances.len(),
            diagnostics: Vec::new(),
        };
        if let Some(file) = &args.file {
            allowed.read_file(file)?;
        }
        Ok(allowed)
    }

    /// The findings about entries of the file that allow nothing.
    pub(super) fn unused(&self, unused: &[usize]) -> Vec<Diagnostic> {
        let entries = unused
            .iter()
            .filter_map(|index| index.checked_sub(self.given))
            .filter_map(|index| Some((index, self.entries.get(index)?)));
        let told = entries.map(|(index, entry)| {
            let Allowance { code, object } = &self.allowances[self.given + index];
            let object = object.as_ref().map(|object| format!(" of {object}"));
            Diagnostic {
                place: entry.place.clone(),
                code: Code::Allowance,
                severity: Severity::Warning,
                message: format!("nothing{} has a finding {code}", object.unwrap_or_default()),
                hint: Some("remove the entry".to_owned()),
            }
        });
        told.collect()
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let name = path.display().to_string();
        let bytes = std::fs::metadata(path)
            .with_context(|| format!("cannot read {name}"))?
            .len();
        if bytes > MAX_BYTES {
            bail!("{name} has {bytes} bytes, more than {MAX_BYTES}");
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let mut reader = Reader::new(&name.as_str().into());
        for document in yaml::parse(&text) {
            match document {
                Ok(node) if matches!(node.value, yaml::Value::Null) => {}
                Ok(node) => {
                    self.read_document(&mut reader, &node);
                }
                Err(failure) => reader.error(failure.mark, Code::Syntax, "not YAML"),
            }
        }
        let errors = reader.errors();
        let diagnostics = reader.into_diagnostics();
        if errors > 0 {
            for diagnostic in &diagnostics {
                eprintln!("{diagnostic}");
            }
            bail!("{name} is not a file of allowances");
        }
        self.diagnostics.extend(diagnostics);
        Ok(())
    }

    fn read_document(&mut self, reader: &mut Reader, node: &yaml::Node<'_>) -> Option<()> {
        let fields = reader.strict_mapping(node, "a file of allowances", &["allow"])?;
        let list = reader.required(fields, "allow")?;
        for item in reader.list(list, "`allow`")? {
            let known = ["code", "object", "reason", "until"];
            if let Some(fields) = reader.strict_mapping(item, "an allowance", &known) {
                self.read_entry(reader, fields);
            }
        }
        Some(())
    }

    fn read_entry(&mut self, reader: &mut Reader, fields: Fields<'_, '_>) -> Option<()> {
        let code = reader.required(fields, "code")?;
        let text = reader.string(code, "`code`")?;
        if !is_code(text) {
            reader.error(
                code.mark,
                Code::Allowance,
                "`code` is not the code of a finding",
            );
        }
        let object = match fields.get("object") {
            None => None,
            Some(node) => Some(reader.string(node, "`object`")?.to_owned()),
        };
        let reason = reader.required(fields, "reason")?;
        if reader.string(reason, "`reason`")?.trim().is_empty() {
            reader.error(reason.mark, Code::Allowance, "`reason` is empty");
        }
        if let Some(node) = fields.get("until") {
            let date = reader.string(node, "`until`")?;
            match humantime::parse_rfc3339(&format!("{date}T23:59:59Z")) {
                Ok(last) if last < SystemTime::now() => {
                    reader.warning(
                        node.mark,
                        Code::Allowance,
                        format!("the allowance of {text} ended with {date}"),
                        "mend what it allowed, or allow it anew",
                    );
                    return Some(());
                }
                Ok(_) => {}
                Err(_) => reader.error_hint(
                    node.mark,
                    Code::Allowance,
                    "`until` is not a date",
                    "write the last day, such as 2030-12-31",
                ),
            }
        }
        self.entries.push(Entry {
            place: reader.place(fields.mark),
        });
        self.allowances.push(Allowance {
            code: text.to_owned(),
            object,
        });
        Some(())
    }
}

fn is_code(text: &str) -> bool {
    Code::ALL.iter().any(|code| code.as_str() == text)
}

/// Reads `CODE` or `CODE=NAMESPACE/NAME`.
fn allowance(text: &str) -> Result<Allowance, String> {
    let (code, object) = match text.split_once('=') {
        Some((code, object)) => (code, Some(object.to_owned())),
        None => (text, None),
    };
    if !is_code(code) {
        return Err(format!(
            "{code:?} is not the code of a finding: docs/diagnostics.md lists them"
        ));
    }
    if object.as_ref().is_some_and(String::is_empty) {
        return Err("an object is written namespace/name".to_owned());
    }
    Ok(Allowance {
        code: code.to_owned(),
        object,
    })
}
