//! The flags that choose records, and `--not` before them.
//!
//! One table names the flags: parser, help, man page and completions have them from there.
//! clap tells where on the command line a value stood, so that `--not` negates the flag
//! behind it and no other. It forgets a field's values once it has set the field: a struct
//! has [`FilterFlags`] before all other fields.

use std::fmt::Display;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser as _, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use cofferdam_protocol::filter::{Criterion, Filter};
use cofferdam_protocol::words::ClosedList;

const NOT: &str = "not";

/// A flag that chooses records.
struct Flag {
    name: &'static str,
    value: &'static str,
    help: &'static str,
    /// Longer than a help text should be: completions have the words.
    hides_words: bool,
    parser: fn() -> ValueParser,
}

const fn flag(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    parser: fn() -> ValueParser,
) -> Flag {
    Flag {
        name,
        value,
        help,
        hides_words: false,
        parser,
    }
}

const FLAGS: [Flag; 13] = [
    flag(
        "verdict",
        "VERDICT",
        "Show only records with this verdict",
        || words(Criterion::Verdict),
    ),
    Flag {
        hides_words: true,
        ..flag(
            "reason",
            "REASON",
            "Show only records with this reason, such as `isolated`; docs/reasons.md has all",
            || words(Criterion::Reason),
        )
    },
    flag("type", "TYPE", "Show only records of this type", || {
        words(Criterion::Type)
    }),
    flag(
        "from",
        "END",
        "Show only from this end: `namespace/pod`, `namespace/`, `node/NAME`, an address or a CIDR",
        || text(Criterion::From),
    ),
    flag("to", "END", "Show only to this end", || text(Criterion::To)),
    flag(
        "workload",
        "WORKLOAD",
        "Show only from or to this workload: `namespace/pod`, or `pod` in whatever namespace",
        || text(Criterion::Workload),
    ),
    flag(
        "namespace",
        "NAMESPACE",
        "Show only from or to workloads of this namespace",
        || text(Criterion::Namespace),
    ),
    flag(
        "label",
        "LABEL",
        "Show only from or to workloads with this label: `key=value`, or `key` with any value",
        || text(Criterion::Label),
    ),
    flag(
        "ip",
        "ADDRESS",
        "Show only from or to this address or CIDR",
        || text(Criterion::Ip),
    ),
    flag(
        "port",
        "PORT",
        "Show only from or to this port: `80`, `8000-8999`, `tcp/80`, `icmp/8`, `proto/47`",
        || text(Criterion::Port),
    ),
    flag(
        "protocol",
        "PROTOCOL",
        "Show only of this protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, `arp`, or its number",
        || text(Criterion::Protocol),
    ),
    flag(
        "direction",
        "DIRECTION",
        "Show only records of this direction, as the judged workload sees it",
        || words(Criterion::Direction),
    ),
    flag(
        "policy",
        "POLICY",
        "Show only records that this policy is named in: `namespace/name`, or `name`",
        || text(Criterion::Policy),
    ),
];

/// Reads one of a closed list of words.
fn words<T: ClosedList + Send + Sync>(of: fn(T) -> Criterion) -> ValueParser {
    let known = T::ALL.iter().map(|one| one.word());
    let parser = PossibleValuesParser::new(known)
        .map(move |word| of(T::of_word(&word).expect("one of the words")));
    parser.into()
}

/// Reads a pattern.
fn text<T: FromStr<Err: Display> + 'static>(of: fn(T) -> Criterion) -> ValueParser {
    ValueParser::from(move |text: &str| {
        let pattern = text.parse().map(of);
        pattern.map_err(|error: T::Err| error.to_string())
    })
}

/// Filters and times that the flags ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct FilterFlags(pub(super) Filter);

impl Args for FilterFlags {
    fn augment_args(command: Command) -> Command {
        let not = Arg::new(NOT)
            .long(NOT)
            .help("Negates the next of the flags above, and only that: `--not --port 53`")
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("true")
            .value_parser(clap::value_parser!(bool));
        let flags = FLAGS.iter().map(|flag| {
            Arg::new(flag.name)
                .long(flag.name)
                .value_name(flag.value)
                .help(flag.help)
                .hide_possible_values(flag.hides_words)
                .action(ArgAction::Append)
                .value_parser((flag.parser)())
        });
        let heading = "Filters (alternatives of one flag, all of different ones)";
        let all = flags.chain([not]);
        command.args(all.map(|arg| arg.help_heading(heading)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given: Vec<(usize, &Criterion)> = Vec::new();
        for flag in &FLAGS {
            let values = matches.get_many::<Criterion>(flag.name);
            let places = matches.indices_of(flag.name);
            given.extend(
                places
                    .into_iter()
                    .flatten()
                    .zip(values.into_iter().flatten()),
            );
        }
        let negated = negated(matches)?;
        given.sort_by_key(|(place, _)| *place);
        let mut filter = Filter::default();
        for (place, criterion) in given {
            filter.add(negated.contains(&place), criterion.clone());
        }
        Ok(Self(filter))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the places of values that have `--not` before their flag.
fn negated(matches: &ArgMatches) -> Result<Vec<usize>, Error> {
    let is_given = |name: &str| {
        let source = matches.value_source(name);
        source == Some(clap::parser::ValueSource::CommandLine)
    };
    let names = matches.ids().map(clap::Id::as_str);
    let mut places: Vec<(usize, &str)> = names
        .filter(|name| is_given(name))
        .flat_map(|name| {
            let places = matches.indices_of(name).into_iter().flatten();
            places.map(move |place| (place, name))
        })
        .collect();
    places.sort_unstable();
    let nots = places
        .iter()
        .enumerate()
        .filter(|(_, (_, name))| *name == NOT);
    nots.map(|(at, _)| match places.get(at + 1) {
        Some((place, name)) if FLAGS.iter().any(|flag| flag.name == *name) => Ok(*place),
        _ => Err(Error::raw(
            ErrorKind::ArgumentConflict,
            "`--not` must stand directly before the flag that it negates, such as \
             `--not --port 53`",
        )),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Tool {
        #[command(flatten)]
        filter: FilterFlags,
        #[arg(long)]
        last: Option<u64>,
        #[arg(long, default_value = "x")]
        other: String,
    }

    fn read(line: &str) -> Result<String, String> {
        let words = ["tool"].into_iter().chain(line.split_whitespace());
        let tool = Tool::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&tool.filter.0).expect("JSON"))
    }

    #[test]
    fn not_negates_the_flag_behind_it_and_no_other() {
        for (line, expected) in [
            ("", "[]"),
            (
                "--verdict deny --verdict allow",
                r#"[{"any":[{"verdict":"deny"},{"verdict":"allow"}]}]"#,
            ),
            (
                "--port 80 --not --port 53 --last 3 --port=tcp/90",
                r#"[{"any":[{"port":"80"},{"port":"tcp/90"}]},{"not":true,"any":[{"port":"53"}]}]"#,
            ),
            (
                "--not --from a/ --to b/c",
                r#"[{"not":true,"any":[{"from":"a/"}]},{"any":[{"to":"b/c"}]}]"#,
            ),
        ] {
            assert_eq!(read(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn slips_are_refused_with_what_is_expected() {
        for (line, expected) in [
            ("--port 80 --not", "directly before"),
            ("--not --last 3 --port 80", "directly before"),
            ("--not --not --port 80", "directly before"),
            ("--port 0-", "expected 80, 8000-8999"),
            ("--verdict drop", "allow, deny"),
            ("--to external/x", "give the address or a CIDR"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
