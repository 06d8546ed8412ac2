//! `cofferdam bypass`: policy denies an endpoint nothing for a time.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use cofferdam_answers::Reply;
use cofferdam_protocol::{Bypass, Request};

use super::{Common, show, text, wait};
use crate::client;

/// Lets policy deny an endpoint nothing for a time: for the night when something is wrong.
///
/// Forged sources and malformed packets are dropped as ever. The time ends by itself, without
/// an agent too. `cofferdam status` lists whom it is for.
#[derive(Debug, Args)]
pub(super) struct BypassArgs {
    /// The workload, `namespace/name`, or one endpoint of it, `namespace/name/interface`; all
    /// endpoints of the node when left out.
    endpoint: Option<String>,
    /// For how long, at most 24h.
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration, default_value = "10m")]
    time: Duration,
    /// End it now.
    #[arg(long, conflicts_with = "time")]
    end: bool,
    /// Time to wait for the agent.
    #[arg(long, value_parser = super::duration, default_value = "30s")]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: BypassArgs) -> Result<bool> {
    let time = if args.end { Duration::ZERO } else { args.time };
    let request = Request::Bypass(Bypass {
        endpoint: args.endpoint,
        for_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
    });
    let reply = wait(client::ask(&args.common.run_dir, request, args.timeout))?;
    let Reply::Bypassed(report) = reply else {
        bail!("the agent answered something else");
    };
    show(args.common.format, &report, text::bypassed)?;
    Ok(true)
}
