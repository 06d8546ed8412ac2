//! The emulated machines, one for each architecture.

use crate::architecture::Architecture;

/// An emulated machine, and what its devices are called inside.
pub(super) struct Hardware {
    /// The emulator.
    pub(super) emulator: &'static str,
    /// Its arguments that choose board and processor.
    pub(super) board: &'static [&'static str],
    /// Its arguments that make standard output the second serial line, behind the kernel's.
    pub(super) line: &'static [&'static str],
    /// The kernel's serial line.
    pub(super) console: &'static str,
    /// The second serial line.
    pub(super) terminal: &'static str,
}

/// Returns the machine of an architecture.
pub(super) fn of(architecture: Architecture) -> Hardware {
    match architecture {
        // Everything that the emulator knows, but for short strings at speed. With those the
        // kernel copies and clears memory by `rep movsb` and `rep stosb`, which the emulator
        // does byte by byte; without them a program is verified in a third of the time.
        Architecture::X86_64 => Hardware {
            emulator: "qemu-system-x86_64",
            board: &["-cpu", "max,-erms,-fsrm"],
            line: &["-serial", "stdio"],
            console: "ttyS0",
            terminal: "ttyS1",
        },
        // Not the greatest processor there is: that signs pointers, and the emulator
        // computes the cipher in software at every call. The board has one serial line; the
        // second is a card.
        Architecture::Aarch64 => Hardware {
            emulator: "qemu-system-aarch64",
            board: &["-machine", "virt", "-cpu", "cortex-a72"],
            line: &[
                "-chardev",
                "stdio,id=line",
                "-device",
                "pci-serial,chardev=line",
            ],
            console: "ttyAMA0",
            terminal: "ttyS0",
        },
    }
}
