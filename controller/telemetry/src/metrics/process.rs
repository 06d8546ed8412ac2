//! Metrics of the agent's own process, as the kernel has them.

use std::fs;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::list::{
    PROCESS_CPU, PROCESS_MAX_FDS, PROCESS_OPEN_FDS, PROCESS_RESIDENT, PROCESS_START,
    PROCESS_THREADS, PROCESS_VIRTUAL,
};
use super::page::Page;

/// Places in `/proc/self/stat` behind the name, from 0; see proc_pid_stat(5).
mod place {
    pub(super) const USER_TICKS: usize = 11;
    pub(super) const SYSTEM_TICKS: usize = 12;
    pub(super) const THREADS: usize = 17;
    pub(super) const START_TICKS: usize = 19;
    pub(super) const VIRTUAL_BYTES: usize = 20;
    pub(super) const RESIDENT_PAGES: usize = 21;
}

/// Adds the process's samples to a page; those that the kernel does not tell are left out.
pub(super) fn put(page: &mut Page) {
    let none = || std::iter::empty::<&str>();
    if let Some(text) = fs::read_to_string("/proc/self/stat").ok()
        && let Some((_, numbers)) = text.rsplit_once(") ")
    {
        let numbers: Vec<f64> = (numbers.split(' '))
            .map(|number| number.trim_end().parse().unwrap_or(0.0))
            .collect();
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0.0);
        let configured = |variable| sysconf(variable).ok().flatten().map(|value| value as f64);
        let ticks = configured(SysconfVar::CLK_TCK).unwrap_or(100.0);
        let page_bytes = configured(SysconfVar::PAGE_SIZE).unwrap_or(4096.0);
        let cpu = (number(place::USER_TICKS) + number(place::SYSTEM_TICKS)) / ticks;
        page.put(&PROCESS_CPU, none(), cpu);
        page.put(&PROCESS_VIRTUAL, none(), number(place::VIRTUAL_BYTES));
        let resident = number(place::RESIDENT_PAGES) * page_bytes;
        page.put(&PROCESS_RESIDENT, none(), resident);
        page.put(&PROCESS_THREADS, none(), number(place::THREADS));
        if let Some(booted) = booted() {
            let start = booted + number(place::START_TICKS) / ticks;
            page.put(&PROCESS_START, none(), start);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // But for the one by which they are listed.
        page.put(
            &PROCESS_OPEN_FDS,
            none(),
            open.count().saturating_sub(1) as f64,
        );
    }
    if let Ok((most, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.put(&PROCESS_MAX_FDS, none(), most as f64);
    }
}

/// Returns the time at which the machine was started, in seconds since the epoch.
fn booted() -> Option<f64> {
    static BOOTED: OnceLock<Option<f64>> = OnceLock::new();
    *BOOTED.get_or_init(|| {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("btime "));
        line?.parse().ok()
    })
}
