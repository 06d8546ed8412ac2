//! `cofferdam init`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser};
use cofferdam_protocol::output::Schema;

use super::{Format, show};
use crate::library::{self, Template};
use crate::output::{InitReport, TemplateEntry, TemplateList};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The template; without it, all are listed.
    #[arg(value_name = "TEMPLATE", value_parser = names(), hide_possible_values = true)]
    template: Option<String>,
    /// Folder to write to; by default one of the template's name, in this directory.
    #[arg(value_name = "DIR", requires = "template")]
    directory: Option<PathBuf>,
    /// Lists the templates.
    #[arg(long, conflicts_with_all = ["template", "force"])]
    list: bool,
    /// Overwrites files that are there.
    #[arg(long)]
    force: bool,
    /// Print in this form.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn names() -> PossibleValuesParser {
    let name = |template: Template| PossibleValue::new(template.name()).help(template.about());
    PossibleValuesParser::new(library::templates().map(name))
}

pub(super) fn run(args: &InitArgs) -> Result<bool> {
    let Some(name) = &args.template else {
        show(args.format, &list(), listed)?;
        return Ok(true);
    };
    let template = Template::named(name).expect("clap has checked the name");
    let directory = args.directory.clone().unwrap_or_else(|| name.into());
    write(template, &directory, args.force)?;
    let report = InitReport {
        schema: Schema,
        template: name.clone(),
        directory: directory.to_string_lossy().into_owned(),
        files: template.files().map(|(name, _)| name.to_owned()).collect(),
    };
    show(args.format, &report, written)?;
    Ok(true)
}

/// Writes all files, or none when one of them is there already.
fn write(template: Template, directory: &Path, force: bool) -> Result<()> {
    if !force {
        // A link that leads nowhere is in the way as well.
        let there = template
            .files()
            .map(|(name, _)| directory.join(name))
            .find(|path| path.symlink_metadata().is_ok());
        if let Some(path) = there {
            bail!(
                "{} is there already, and nothing was written; choose another folder, or \
                 overwrite with --force",
                path.display()
            );
        }
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the folder {}", directory.display()))?;
    for (name, content) in template.files() {
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        options.write(true);
        if force {
            // What stands there may be a link to elsewhere: it is replaced, not followed.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("cannot overwrite {}", path.display()));
                }
                _ => {}
            }
        }
        let file = options.create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(content))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn list() -> TemplateList {
    let entry = |template: Template| TemplateEntry {
        name: template.name().to_owned(),
        about: template.about().to_owned(),
    };
    TemplateList {
        schema: Schema,
        templates: library::templates().map(entry).collect(),
    }
}

fn listed(list: &TemplateList) -> String {
    let names = list.templates.iter().map(|template| template.name.len());
    let width = names.max().unwrap_or_default();
    let mut text = String::new();
    for TemplateEntry { name, about } in &list.templates {
        text += &format!("{name:width$}  {about}\n");
    }
    text + "\nTo begin with one: cofferdam init TEMPLATE\n"
}

fn written(report: &InitReport) -> String {
    let folder = shell_word(&report.directory);
    format!(
        "{} files in {}. Read README.md first, then\n\n  \
         cofferdam check {folder}\n  \
         cofferdam test {folder}\n",
        report.files.len(),
        report.directory,
    )
}

/// A path as it can be given to a shell.
fn shell_word(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if path.chars().all(plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given_to_a_shell() {
        for path in ["a/b-1.d", "with space", "it's", "$HOME", "a;b"] {
            let said = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", shell_word(path))])
                .output()
                .expect("a shell");
            assert_eq!(String::from_utf8_lossy(&said.stdout), path);
        }
    }
}
