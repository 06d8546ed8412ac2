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

use super::initramfs::Archive;
use crate::{
    outcome::Failed,
    records::{Reported, SKIPS, VERIFIED},
    run::{self, Next, Running},
    tools,
};

/// How many random worlds of policies the differential test goes through.
const WORLDS: &str = "COFFERDAM_WORLDS";
/// As many under emulation, which is some twenty times slower. What differs there
/// is the kernel, not the policies.
const EMULATED_WORLDS: &str = "12";

/// Begins every line that the machine says to us rather than to the reader.
const MARK: &str = "@cofferdam@ ";

/// How long a machine may take to switch itself off after the last word.
const SWITCH_OFF: Duration = Duration::from_secs(10);

/// What the kernel is told.
///
/// A kernel that oopsed proves nothing any more: it stops, and switches off. Grace
/// periods are what they were but hurried, for tests that load and attach wait for many.
///
/// Nothing in the machine is worth attacking: indirect jumps through return thunks, and
/// memory that is cleared before its user clears it, cost a sixth of all instructions.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 oops=panic panic=-1 \
    rcupdate.rcu_expedited=1 mitigations=off init_on_alloc=0";

/// The emulated processor: everything that the emulator knows, but for short strings at
/// speed. With those the kernel copies and clears memory by `rep movsb` and `rep stosb`,
/// which the emulator does byte by byte; without them a program is verified in a third of
/// the time.
const PROCESSOR: &str = "max,-erms,-fsrm";

/// Priority by which the machine gives way: tests beside it have bounds of time, those inside wait
/// with more patience.
const NICENESS: &str = "5";

/// How many of the kernel's last lines are shown when something went wrong.
const LAST_WORDS: usize = 40;

/// What to run in the machine, and how long.
pub(crate) struct Task<'a> {
    /// The compressed kernel.
    pub(crate) image: &'a Path,
    /// Modules in the order to load them, by name.
    pub(crate) modules: &'a [super::modules::Module],
    /// The program to run.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [String],
    /// Where the files of this machine go.
    pub(crate) folder: &'a Path,
    /// When it has to be done.
    pub(crate) limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    /// Release of the kernel, as it says itself.
    pub(crate) release: String,
    /// What the program printed.
    pub(crate) output: Vec<String>,
    /// Its exit status.
    pub(crate) status: u8,
    /// What its tests reported.
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
    let mut machine = Running::start(
        run::command("nice")
            .args(["-n", NICENESS])
            .arg(emulator())
            .args(["-accel", "tcg", "-cpu", PROCESSOR, "-m", "1024"])
            // One processor: the kernel patches its own code when the first filter
            // comes, an emulated processor may still be in the old code, and
            // Linux 7.2 panicked once at a breakpoint that was gone again.
            .args(["-smp", "1"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(task.image)
            .arg("-initrd")
            .arg(&archive)
            .args(["-append", COMMAND_LINE]),
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

fn emulator() -> PathBuf {
    tools::find("qemu-system-x86_64").unwrap_or_else(|| "qemu-system-x86_64".into())
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

/// What the kernel found wrong with itself, in what it said.
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
    let busybox = tools::find("busybox").context("busybox is not installed")?;
    archive.program("bin/busybox", &busybox)?;
    // Busybox's shell would run its own `ip` before any in PATH.
    if let Some(shell) = tools::find("dash") {
        archive.program("bin/sh", &shell)?;
    }
    // Ahead of busybox's own in PATH, which know neither clsact nor BPF.
    for name in ["ip", "tc", "nft", "ipvsadm", "wg"] {
        if let Some(tool) = tools::find(name) {
            archive.program(&format!("usr/sbin/{name}"), &tool)?;
        }
    }
    archive.program("program", task.program)?;
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
    archive.file("init", init(&names, &settings, task.arguments).as_bytes());
    Ok(archive.finish())
}

/// The first program of the machine: a shell script for busybox.
///
/// The program writes into a pipe, as it would here: on a terminal, test runners
/// colour their words.
fn init(modules: &[&str], settings: &[(String, String)], arguments: &[String]) -> String {
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
export PATH=/usr/sbin:/bin HOME=/root RUST_BACKTRACE=1
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t cgroup2 cgroup2 /sys/fs/cgroup
stty -F /dev/ttyS1 -opost
exec </dev/null >/dev/ttyS1 2>&1
for name in {modules}; do insmod /modules/$name.ko; done
# The module makes one by itself, here and nowhere else.
ip link del dummy0 2>/dev/null
ip link set lo up
export {SKIPS}=/tmp/skips {VERIFIED}=/tmp/verified
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

/// What was heard so far.
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
        let script = init(&["veth"], &settings, &["a b".to_owned()]);
        assert!(
            script.contains(r"export COFFERDAM_X='it'\''s $HOME'"),
            "{script}"
        );
        assert!(script.contains("/program 'a b' >/tmp/output"), "{script}");
    }

    #[test]
    fn warnings_of_the_kernel_are_found() {
        let console =
            "Linux version 6.1\nWARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:1\nfine\n";
        assert_eq!(warnings(console).len(), 1);
    }
}
