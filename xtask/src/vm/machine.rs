//! Starts a kernel in an emulated machine, and hears what it says.
//!
//! The machine has two serial lines. The kernel talks on the first, which goes to
//! a file; the tests talk on the second, which we read. With one line for both, a
//! kernel message in the middle of a test's result would change it.
//!
//! Invariant: a machine that says nothing, stops half-way or never ends is a
//! failure with the kernel's last words, never a success.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    hardware::{self, Hardware},
    initramfs::Archive,
    userland,
};
use crate::{
    architecture::Architecture,
    outcome::Failed,
    records::{Reported, SKIPS, VERIFIED},
    run::{self, Next, Running},
    tools,
};

/// Variable with the number of random worlds that the differential test goes through.
const WORLDS: &str = "COFFERDAM_WORLDS";
/// Number of them under emulation, which is some twenty times slower. What differs there
/// is the kernel, not the policies.
const EMULATED_WORLDS: &str = "12";

/// Variable that tells tests that they may set the clock.
const OWN_CLOCK: &str = "COFFERDAM_OWN_CLOCK";

/// Begins every line that the machine says to us rather than to the reader.
const MARK: &str = "@cofferdam@ ";

/// Time that a machine may take to switch itself off after the last word.
const SWITCH_OFF: Duration = Duration::from_secs(10);

/// Command line of the kernel, beside its console.
///
/// A kernel that oopsed proves nothing any more: it stops, and switches off. Grace
/// periods are what they were but hurried, for tests that load and attach wait for many.
///
/// Nothing in the machine is worth attacking: indirect jumps through return thunks, and
/// memory that is cleared before its user clears it, cost a sixth of all instructions.
const COMMAND_LINE: &str = "loglevel=5 oops=panic panic=-1 rcupdate.rcu_expedited=1 \
    mitigations=off init_on_alloc=0";

/// Priority by which the machine gives way: tests beside it have bounds of time, those inside wait
/// with more patience.
const NICENESS: &str = "5";

/// Number of the kernel's last lines that are shown when something went wrong.
const LAST_WORDS: usize = 40;

/// A program to run in the machine, and for how long.
pub(crate) struct Task<'a> {
    /// The machine's processor.
    pub(crate) architecture: Architecture,
    /// The compressed kernel.
    pub(crate) image: &'a Path,
    /// Modules in the order to load them, by name.
    pub(crate) modules: &'a [super::modules::Module],
    /// The program to run.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [String],
    /// Files for it, by their paths in the machine.
    pub(crate) beside: &'a [(String, PathBuf)],
    /// Folder for the files of this machine.
    pub(crate) folder: &'a Path,
    /// Time after which the machine is stopped.
    pub(crate) limit: Duration,
}

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// Release of the kernel, as it says itself.
    pub(crate) release: String,
    /// Lines that the program printed.
    pub(crate) output: Vec<String>,
    /// Its exit status.
    pub(crate) status: u8,
    /// Skips and sizes that its tests reported.
    pub(crate) reported: Reported,
    /// From start to the first instruction of the program.
    pub(crate) boot: Duration,
    /// Warnings of the kernel meanwhile.
    pub(crate) warnings: Vec<String>,
}

/// Runs `task`; `say` takes each line of its program as it comes.
pub(crate) fn run(task: &Task<'_>, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let archive = task.folder.join("initramfs.cpio");
    fs::write(&archive, pack(task)?)
        .with_context(|| format!("cannot write {}", archive.display()))?;
    let console = task.folder.join("console.log");
    let started = Instant::now();
    let deadline = started + task.limit;
    let hardware = hardware::of(task.architecture);
    let emulator = tools::find(hardware.emulator).unwrap_or_else(|| hardware.emulator.into());
    let mut machine = Running::start(
        run::command("nice")
            .args(["-n", NICENESS])
            .arg(emulator)
            .args(["-accel", "tcg", "-m", "1024"])
            .args(hardware.board)
            // One processor: the kernel patches its own code when the first filter
            // comes, an emulated processor may still be in the old code, and
            // Linux 7.2 panicked once at a breakpoint that was gone again.
            .args(["-smp", "1"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(hardware.line)
            .arg("-kernel")
            .arg(task.image)
            .arg("-initrd")
            .arg(&archive)
            .arg("-append")
            .arg(format!("console={} {COMMAND_LINE}", hardware.console)),
    )?;
    let mut heard = Heard::default();
    let mut boot = None;
    loop {
        match machine.next(Some(deadline)) {
            Next::Line(line) => {
                if let Some(text) = heard.line(&line) {
                    say(&text);
                }
                if boot.is_none() && heard.part == Part::Output {
                    boot = Some(started.elapsed());
                }
                if heard.part == Part::End {
                    break;
                }
            }
            Next::Ended => break,
            Next::Late => {
                let limit = task.limit.as_secs();
                return Err(gave_up(&console, &format!("was not done after {limit} s")));
            }
        }
    }
    // It has said everything; whether it switches itself off in time is no matter.
    let patience = Instant::now() + SWITCH_OFF;
    while let Next::Line(_) = machine.next(Some(patience)) {}
    drop(machine);
    let (Some(boot), Some(status), Part::End) = (boot, heard.status, heard.part) else {
        return Err(gave_up(&console, "stopped before its tests were done"));
    };
    Ok(Report {
        release: heard.release,
        status,
        reported: Reported::parse(&heard.skips, &heard.verified)?,
        boot,
        warnings: warnings(&fs::read_to_string(&console).unwrap_or_default()),
        output: heard.output,
    })
}

/// The failure of a machine, with what its kernel said last.
fn gave_up(console: &Path, what: &str) -> anyhow::Error {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
    Failed::error(format!(
        "the virtual machine {what}; its kernel said last (all of it: {}):\n{last}",
        console.display()
    ))
}

/// Finds the kernel's warnings about itself in what it said.
fn warnings(console: &str) -> Vec<String> {
    console
        .lines()
        .filter(|line| {
            ["WARNING:", "BUG:", "Oops:"]
                .iter()
                .any(|word| line.contains(word))
        })
        .map(|line| line.trim().to_owned())
        .collect()
}

/// The file system the machine starts from.
fn pack(task: &Task<'_>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in [
        "proc", "sys", "dev", "tmp", "run", "root", "etc", "var", "modules", "bin",
    ] {
        archive.folder(folder);
    }
    archive.link("var/run", "/run");
    if task.architecture.is_here() {
        pack_tools(&mut archive)?;
    } else {
        let tools = userland::get(task.architecture, &run::target().join("vm"))?;
        for folder in userland::FOLDERS {
            archive.tree(folder, &tools.join(folder))?;
        }
    }
    archive.program("program", task.program)?;
    for (path, from) in task.beside {
        archive.program(path, from)?;
    }
    for module in task.modules {
        archive.file(&format!("modules/{}.ko", module.name), &module.content);
    }
    // What the caller's environment says comes later, and so overrides.
    let settings: Vec<(String, String)> = [(WORLDS.to_owned(), EMULATED_WORLDS.to_owned())]
        .into_iter()
        .chain(std::env::vars().filter(|(name, _)| {
            name.starts_with("COFFERDAM_") && name != SKIPS && name != VERIFIED
        }))
        .collect();
    let names: Vec<&str> = task
        .modules
        .iter()
        .map(|module| module.name.as_str())
        .collect();
    let init = init(
        &hardware::of(task.architecture),
        &names,
        &settings,
        task.arguments,
    );
    archive.file("init", init.as_bytes());
    Ok(archive.finish())
}

/// Packs the tools of this machine.
fn pack_tools(archive: &mut Archive) -> Result<()> {
    let busybox = tools::find("busybox").context("busybox is not installed")?;
    archive.program("bin/busybox", &busybox)?;
    // Busybox's shell would run its own `ip` before any in PATH.
    if let Some(shell) = tools::find("dash") {
        archive.program("bin/sh", &shell)?;
    }
    // Ahead of busybox's own in PATH, which know neither clsact nor BPF.
    for name in ["ip", "tc", "nft", "ipvsadm", "wg", "setpriv"] {
        if let Some(tool) = tools::find(name) {
            archive.program(&format!("usr/sbin/{name}"), &tool)?;
        }
    }
    Ok(())
}

/// The first program of the machine: a shell script for busybox.
///
/// The program writes into a pipe, as it would here: on a terminal, test runners
/// colour their words.
fn init(
    hardware: &Hardware,
    modules: &[&str],
    settings: &[(String, String)],
    arguments: &[String],
) -> String {
    let terminal = hardware.terminal;
    let modules = modules.join(" ");
    let settings: String = settings
        .iter()
        .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
        .collect();
    let arguments: String = arguments
        .iter()
        .map(|argument| format!(" {}", quoted(argument)))
        .collect();
    format!(
        "\
#!/bin/busybox sh
export PATH=/usr/sbin:/sbin:/usr/bin:/bin HOME=/root RUST_BACKTRACE=1
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
stty -F /dev/{terminal} -opost
exec </dev/null >/dev/{terminal} 2>&1
for name in {modules}; do insmod /modules/$name.ko; done
# The module makes one by itself, here and nowhere else.
ip link del dummy0 2>/dev/null
ip link set lo up
export {SKIPS}=/tmp/skips {VERIFIED}=/tmp/verified {OWN_CLOCK}=1
: >/tmp/skips
: >/tmp/verified
{settings}echo '{MARK}kernel' $(uname -r)
echo '{MARK}output'
mkfifo /tmp/output
cat /tmp/output &
reader=$!
/program{arguments} >/tmp/output 2>&1
status=$?
# What it left running holds the pipe open.
for process in /proc/[0-9]*; do
    process=${{process#/proc/}}
    case $process in 1|$reader) ;; *) kill -9 $process 2>/dev/null ;; esac
done
wait $reader
echo '{MARK}status' $status
echo '{MARK}skips'
cat /tmp/skips
echo '{MARK}verified'
cat /tmp/verified
echo '{MARK}end'
# Closing the line waits until everything has been sent.
exec >/dev/null 2>&1
poweroff -f
"
    )
}

/// `word` as the shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Parts of what a machine says, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Before the program starts: trouble of the start-up script.
    #[default]
    Start,
    Output,
    Skips,
    Verified,
    End,
}

/// Words of the machine so far.
#[derive(Debug, Default)]
struct Heard {
    part: Part,
    release: String,
    output: Vec<String>,
    status: Option<u8>,
    skips: String,
    verified: String,
}

impl Heard {
    /// Takes one line; returns it if it is meant for the reader.
    fn line(&mut self, line: &str) -> Option<String> {
        // A program that died in the middle of a line leaves it before our mark.
        let (text, marked) = match line.split_once(MARK) {
            Some((text, marked)) => (text, Some(marked)),
            None => (line, None),
        };
        let mut shown = None;
        if marked.is_none() || !text.is_empty() {
            match self.part {
                Part::Skips => self.skips.push_str(&format!("{text}\n")),
                Part::Verified => self.verified.push_str(&format!("{text}\n")),
                Part::Output => {
                    self.output.push(text.to_owned());
                    shown = Some(text.to_owned());
                }
                Part::Start | Part::End => shown = Some(text.to_owned()),
            }
        }
        if let Some(marked) = marked {
            let (word, value) = marked.split_once(' ').unwrap_or((marked, ""));
            match word {
                "kernel" => value.clone_into(&mut self.release),
                "output" => self.part = Part::Output,
                "status" => self.status = value.trim().parse().ok(),
                "skips" => self.part = Part::Skips,
                "verified" => self.part = Part::Verified,
                "end" => self.part = Part::End,
                _ => {}
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(lines: &str) -> (Heard, Vec<String>) {
        let mut heard = Heard::default();
        let shown = lines.lines().filter_map(|line| heard.line(line)).collect();
        (heard, shown)
    }

    #[test]
    fn the_parts_are_told_apart() {
        let (heard, shown) = heard(
            "insmod: trouble\n@cofferdam@ kernel 6.1.0-9\n@cofferdam@ output\ntest a ... ok\n\
             @cofferdam@ status 101\n@cofferdam@ skips\ntcx\ta\n@cofferdam@ verified\np\t5\n\
             @cofferdam@ end\n",
        );
        assert_eq!(heard.part, Part::End);
        assert_eq!(heard.release, "6.1.0-9");
        assert_eq!(heard.output, ["test a ... ok"]);
        assert_eq!(heard.status, Some(101));
        assert_eq!(heard.skips, "tcx\ta\n");
        assert_eq!(heard.verified, "p\t5\n");
        assert_eq!(shown, ["insmod: trouble", "test a ... ok"]);
    }

    #[test]
    fn an_unfinished_line_does_not_swallow_a_mark() {
        let (heard, shown) = heard("@cofferdam@ output\ntest a ... @cofferdam@ status 139\n");
        assert_eq!(heard.status, Some(139));
        assert_eq!(shown, ["test a ... "]);
    }

    #[test]
    fn a_machine_that_stopped_early_has_not_ended() {
        let (heard, _) = heard("@cofferdam@ output\ntest a ... ok\n");
        assert_ne!(heard.part, Part::End);
        assert_eq!(heard.status, None);
    }

    #[test]
    fn settings_and_arguments_survive_the_shell() {
        let settings = [("COFFERDAM_X".to_owned(), "it's $HOME".to_owned())];
        let hardware = hardware::of(Architecture::Aarch64);
        let script = init(&hardware, &["veth"], &settings, &["a b".to_owned()]);
        assert!(
            script.contains(r"export COFFERDAM_X='it'\''s $HOME'"),
            "{script}"
        );
        assert!(script.contains("/program 'a b' >/tmp/output"), "{script}");
        assert!(script.contains(">/dev/ttyS0 2>&1"), "{script}");
    }

    #[test]
    fn warnings_of_the_kernel_are_found() {
        let console =
            "Linux version 6.1\nWARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1\nfine\n";
        assert_eq!(warnings(console).len(), 1);
    }
}
