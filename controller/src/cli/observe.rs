//! `cofferdam observe`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cofferdam_answers::Reply;
use cofferdam_protocol::output::RecordType;
use cofferdam_protocol::{Observation, Request};

use super::{Common, Format, text};
use crate::client::{self, ClientError};

#[derive(Debug, Args)]
pub(super) struct ObserveArgs {
    /// Only so many of the past, the newest.
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Of the past only what is not older than this.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only records of this type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<RecordType>,
    /// Goes on with what is to come.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &ObserveArgs) -> Result<bool> {
    let request = Request::Observe(Observation {
        last: args.last,
        since_ms: args
            .since
            .map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        follow: args.follow,
        kind: args.kind,
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut answers = client::send(&args.common.run_dir, request).await?;
        let mut out = std::io::stdout().lock();
        loop {
            let line = match answers.next().await {
                Ok(Reply::Record(record)) => match args.common.format {
                    Format::Json => {
                        serde_json::to_string(&record).context("cannot write JSON")? + "\n"
                    }
                    Format::Text => text::record(&record),
                },
                Ok(Reply::End) => return Ok(true),
                Ok(_) => bail!("the agent answered something else"),
                // The end of an agent is the end of what it can tell.
                Err(ClientError::BrokenOff(_)) if args.follow => return Ok(true),
                Err(error) => return Err(error.into()),
            };
            match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(true),
                written => written.context("cannot write to standard output")?,
            }
        }
    })
}
