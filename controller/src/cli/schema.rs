//! `cofferdam schema`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use cofferdam_protocol::output::Schema;

use super::{Format, print, show};
use crate::output::{SchemaEntry, SchemaList};
use crate::schemas::{self, Named};

#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// Name of the schema, or the kind of document; without it, all are listed.
    #[arg(value_name = "NAME", value_parser = names(), ignore_case = true, hide_possible_values = true)]
    name: Option<String>,
    /// Lists the schemas.
    #[arg(long, conflicts_with_all = ["name", "out"])]
    list: bool,
    /// Writes all of them into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "name")]
    out: Option<PathBuf>,
    /// Print the list in this form.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn names() -> PossibleValuesParser {
    let name = |named: Named| {
        PossibleValue::new(named.name)
            .aliases(named.document)
            .help(named.about)
    };
    PossibleValuesParser::new(schemas::all().into_iter().map(name))
}

pub(super) fn run(args: &SchemaArgs) -> Result<bool> {
    if let Some(directory) = &args.out {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the folder {}", directory.display()))?;
        for named in schemas::all() {
            let path = directory.join(named.file());
            std::fs::write(&path, named.text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(true);
    }
    match &args.name {
        Some(name) => {
            let named = schemas::all()
                .into_iter()
                .find(|named| named.is_called(name));
            print(&named.expect("clap has checked the name").text)?;
        }
        None => show(args.format, &list(), listed)?,
    }
    Ok(true)
}

fn list() -> SchemaList {
    let entry = |named: Named| SchemaEntry {
        name: named.name.to_owned(),
        about: named.about.to_owned(),
        document: named.document.map(str::to_owned),
    };
    SchemaList {
        schema: Schema,
        schemas: schemas::all().into_iter().map(entry).collect(),
    }
}

fn listed(list: &SchemaList) -> String {
    let names = list.schemas.iter().map(|named| named.name.len());
    let width = names.max().unwrap_or_default();
    let section = |title: &str, written: bool| {
        let entries = list.schemas.iter();
        let lines = entries
            .filter(|entry| entry.document.is_some() == written)
            .map(|SchemaEntry { name, about, .. }| format!("  {name:width$}  {about}\n"));
        format!("{title}\n{}", lines.collect::<String>())
    };
    section("Documents that people write:", true)
        + "\n"
        + &section("What commands print with --format json:", false)
}
