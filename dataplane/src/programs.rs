//! The programs in the object: loading them, adopting pinned ones, and running
//! them on made-up packets.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    time::Duration,
};

use aya::{
    EbpfLoader,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use cofferdam_verdict::{counter::Hook, judge::probe, memory::Settings};

use zerocopy::IntoBytes as _;

use crate::{
    kernel::{KernelError, Shared, failed},
    maps::MapSet,
    socket_buffer,
    sys::{self, PrivateBpffs},
};

/// The compiled kernel programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COFFERDAM_EBPF_OBJECT"));

/// Variable of the object: 1 makes the programs read every packet's stamp where a probe's
/// is ([`TestContext::stamped`]), because a test run cannot set the kernel's own field.
pub(crate) const STAMP_IN_CONTROL_BUFFER: &str = "STAMP_IN_CONTROL_BUFFER";

/// Variable of the object: 1 makes the programs on the way out by uplinks note what leaves
/// translated ([`crate::Behaviour::early_drop`]).
pub(crate) const NOTES_LEAVING: &str = "NOTES_LEAVING";

/// Variable of the object: 1 makes the programs read the kernel's packet buffer as it is, 0
/// copy from it, which every kernel lets them do.
pub const CASTS_SOCKET_BUFFER: &str = "CASTS_SOCKET_BUFFER";

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// Its symbol.
    pub name: &'static str,
    /// Hook on which it judges.
    pub hook: Hook,
    /// `true` if it is made for a clsact filter rather than a tcx link.
    pub filter: bool,
}

impl Program {
    /// For the tcx link on a workload's way out.
    pub const FROM_WORKLOAD: Self = Self {
        name: "from_workload",
        hook: Hook::FromWorkload,
        filter: false,
    };
    /// For the clsact filter on a workload's way out.
    pub const FROM_WORKLOAD_FILTER: Self = Self {
        name: "from_workload_f",
        hook: Hook::FromWorkload,
        filter: true,
    };
    /// For the tcx link on the way to a workload.
    pub const TO_WORKLOAD: Self = Self {
        name: "to_workload",
        hook: Hook::ToWorkload,
        filter: false,
    };
    /// For the clsact filter on the way to a workload.
    pub const TO_WORKLOAD_FILTER: Self = Self {
        name: "to_workload_f",
        hook: Hook::ToWorkload,
        filter: true,
    };

    /// For the tcx link on the way in by an interface that is no endpoint's.
    pub const CLEAR_STAMP: Self = Self {
        name: "clear_stamp",
        hook: Hook::UplinkIngress,
        filter: false,
    };
    /// For the clsact filter on the way in by an interface that is no endpoint's.
    pub const CLEAR_STAMP_FILTER: Self = Self {
        name: "clear_stamp_f",
        hook: Hook::UplinkIngress,
        filter: true,
    };

    /// For the tcx link on the way out by an interface that leads off the node.
    pub const UPLINK_EGRESS: Self = Self {
        name: "uplink_egress",
        hook: Hook::UplinkEgress,
        filter: false,
    };
    /// For the clsact filter there: the same program.
    pub const UPLINK_EGRESS_FILTER: Self = Self {
        filter: true,
        ..Self::UPLINK_EGRESS
    };
    /// For the tcx link on the way out by a tunnel.
    pub const TUNNEL_EGRESS: Self = Self {
        name: "tunnel_egress",
        ..Self::UPLINK_EGRESS
    };
    /// For the clsact filter there: the same program.
    pub const TUNNEL_EGRESS_FILTER: Self = Self {
        filter: true,
        ..Self::TUNNEL_EGRESS
    };

    /// For XDP on an uplink.
    pub const UPLINK_INGRESS: Self = Self {
        name: "uplink_ingress",
        hook: Hook::UplinkIngress,
        filter: false,
    };

    /// Those on a workload's hooks.
    pub const OF_WORKLOADS: [Self; 4] = [
        Self::FROM_WORKLOAD,
        Self::FROM_WORKLOAD_FILTER,
        Self::TO_WORKLOAD,
        Self::TO_WORKLOAD_FILTER,
    ];

    /// Those that judge no workload's packets at its own interface.
    pub const OF_UPLINKS: [Self; 4] = [
        Self::CLEAR_STAMP,
        Self::CLEAR_STAMP_FILTER,
        Self::UPLINK_EGRESS,
        Self::TUNNEL_EGRESS,
    ];

    /// Those that are loaded when the first interface needs them.
    pub const LATER: [Self; 3] = [
        Self::UPLINK_EGRESS,
        Self::TUNNEL_EGRESS,
        Self::UPLINK_INGRESS,
    ];

    /// Returns `true` if a program of this name is one of [`Program::LATER`].
    pub(crate) fn is_later(name: &str) -> bool {
        Self::LATER.iter().any(|program| program.name == name)
    }

    /// Those that are always loaded.
    pub const ALWAYS: [Self; 6] = [
        Self::FROM_WORKLOAD,
        Self::FROM_WORKLOAD_FILTER,
        Self::TO_WORKLOAD,
        Self::TO_WORKLOAD_FILTER,
        Self::CLEAR_STAMP,
        Self::CLEAR_STAMP_FILTER,
    ];
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Cost of a loaded program to the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedProgram {
    /// The program.
    pub program: Program,
    /// Instructions the verifier walked; none where the kernel does not tell.
    pub instructions: Option<u32>,
}

/// Fields of the context that a test run sets beside the bytes of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestContext {
    /// An interface that exists in the caller's network namespace; 0 is its
    /// loopback.
    pub ifindex: u32,
    /// Interface the packet is said to have come in by; need not exist.
    pub ingress_ifindex: u32,
    /// The control buffer.
    pub cb: [u32; 5],
    /// Segment size, for a packet that stands for several.
    pub gso_size: u32,
}

/// Bytes of the kernel's `struct __sk_buff`.
const CONTEXT_BYTES: usize = 192;

impl TestContext {
    /// The same, of a packet that carries a stamp: of a probe, or of a packet that a
    /// [stand-in](crate::Kernel::load_stand_ins) judges.
    #[must_use]
    pub fn stamped(mut self, stamp: u16) -> Self {
        self.cb[probe::STAMP] = stamp.into();
        self
    }

    /// As `struct __sk_buff` (linux/bpf.h); every field not set here must be
    /// zero, or the kernel refuses the run.
    fn to_bytes(self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        let mut put = |offset: usize, value: u32| {
            for (to, from) in bytes.iter_mut().skip(offset).zip(value.to_ne_bytes()) {
                *to = from;
            }
        };
        put(36, self.ingress_ifindex);
        put(40, self.ifindex);
        for (i, word) in self.cb.into_iter().enumerate() {
            put(48 + 4 * i, word);
        }
        put(176, self.gso_size);
        bytes
    }
}

/// Outcome of a test run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return value: 2 is drop, 0 pass, −1 go on.
    pub returned: i32,
    /// Mean time of one repetition.
    pub duration: Duration,
    /// The control buffer afterwards.
    pub cb: [u32; 5],
}

/// Loaded programs, by their symbols.
#[derive(Debug)]
pub(crate) struct Programs {
    loaded: BTreeMap<String, Loaded>,
}

/// A loaded program. aya's type stands for its descriptor, whatever kind it is of.
#[derive(Debug)]
struct Loaded {
    classifier: SchedClassifier,
    id: u32,
}

impl Programs {
    /// Loads the programs of an object that are `wanted`, bound to these maps.
    pub(crate) fn load(
        object: &[u8],
        maps: &MapSet,
        settings: &Settings,
        variables: &[(&str, u32)],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, KernelError> {
        // aya binds a program to existing maps by their pins.
        let bpffs = PrivateBpffs::new().map_err(failed("make a BPF file system"))?;
        let root = bpffs.root();
        maps.pin(&root).map_err(failed("pin a BPF map"))?;
        let mut loader = EbpfLoader::new();
        for name in maps.names() {
            loader.map_pin_path(name, root.join(name));
        }
        let shared = Shared(*settings);
        loader.override_global("SETTINGS", &shared, true);
        let places = socket_buffer::places()?;
        let window = Shared(places.window);
        loader.override_global("SOCKET_BUFFER", &window, true);
        let casts = u32::from(places.cast.is_some());
        loader.override_global(CASTS_SOCKET_BUFFER, &casts, true);
        let copies = variables
            .iter()
            .rfind(|(name, _)| *name == CASTS_SOCKET_BUFFER)
            .map_or(places.cast.is_none(), |&(_, casts)| casts == 0);
        for (name, value) in variables {
            loader.override_global(name, value, true);
        }
        let object = socket_buffer::with_cast(object, places.cast);
        let mut ebpf = loader.load(object.as_bytes())?;
        let mut loaded = BTreeMap::new();
        for (name, program) in ebpf.programs_mut().filter(|(name, _)| wanted(name)) {
            let load = |program: &mut aya::programs::Program| {
                if let aya::programs::Program::Xdp(xdp) = program {
                    xdp.load()?;
                } else {
                    let classifier: &mut SchedClassifier = program.try_into()?;
                    classifier.load()?;
                }
                // A second hold on the program, which outlives the object.
                let path = root.join(format!("program_{name}"));
                sys::pin(program.fd()?.as_fd(), &path)?;
                Loaded::open(&path)
            };
            let program = load(program).map_err(|error| {
                socket_buffer::obstacle(copies)
                    .map_or_else(|| refused(name)(error), KernelError::from)
            })?;
            loaded.insert(name.to_owned(), program);
        }
        Ok(Self { loaded })
    }

    /// Returns `true` if a program of this name is loaded at once.
    pub(crate) fn are_always(name: &str) -> bool {
        !Program::is_later(name)
    }

    /// Opens what [`Programs::pin`] left in a directory; none when one of
    /// [`Program::ALWAYS`] is missing.
    pub(crate) fn open(directory: &Path) -> Result<Option<Self>, KernelError> {
        let mut loaded = BTreeMap::new();
        for program in Program::ALWAYS.into_iter().chain(Program::LATER) {
            let path = directory.join(program.name);
            if !path.exists() {
                if Program::is_later(program.name) {
                    continue;
                }
                return Ok(None);
            }
            let opened = Loaded::open(&path).map_err(refused(program.name))?;
            loaded.insert(program.name.to_owned(), opened);
        }
        Ok(Some(Self { loaded }))
    }

    /// Pins them in a directory, each under its symbol.
    pub(crate) fn pin(&self, directory: &Path) -> Result<(), KernelError> {
        self.loaded.iter().try_for_each(|(name, program)| {
            let pin = || sys::pin(program.fd()?, &directory.join(name)).map_err(Into::into);
            pin().map_err(refused(name))
        })
    }

    /// Adds programs.
    pub(crate) fn add(&mut self, more: Self) {
        self.loaded.extend(more.loaded);
    }

    /// Returns `true` if there is a program of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.loaded.contains_key(name)
    }

    fn named(&self, name: &str) -> Result<&Loaded, ProgramError> {
        self.loaded.get(name).ok_or(ProgramError::NotLoaded)
    }

    /// A program, to be attached.
    pub(crate) fn fd(&self, program: Program) -> io::Result<BorrowedFd<'_>> {
        let fd = self.named(program.name).and_then(Loaded::fd);
        fd.map_err(io::Error::other)
    }

    /// The kernel's number of a program.
    pub(crate) fn id(&self, program: Program) -> Option<u32> {
        self.loaded.get(program.name).map(|loaded| loaded.id)
    }

    /// Returns the cost of a program to the verifier.
    pub(crate) fn verified(&self, program: Program) -> Result<VerifiedProgram, ProgramError> {
        let info = self.named(program.name)?.classifier.info()?;
        Ok(VerifiedProgram {
            program,
            instructions: info.verified_instruction_count(),
        })
    }

    /// Runs the program of XDP on a frame. Returns `true` if it passes.
    pub(crate) fn test_run_xdp(&self, frame: &[u8]) -> Result<bool, ProgramError> {
        /// `XDP_PASS`.
        const PASS: u32 = 2;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        let program = self.named(Program::UPLINK_INGRESS.name)?;
        let result = program.classifier.test_run(options)?;
        Ok(result.return_value == PASS)
    }

    /// Runs a program on a packet, `repeat` times (`BPF_PROG_TEST_RUN`).
    pub(crate) fn test_run(
        &self,
        name: &str,
        packet: &[u8],
        context: &TestContext,
        repeat: u32,
    ) -> Result<TestRun, ProgramError> {
        let context_in = context.to_bytes();
        let mut context_out = [0; CONTEXT_BYTES];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.ctx_in = Some(&context_in);
        options.ctx_out = Some(&mut context_out);
        options.repeat = repeat;
        let result = self.named(name)?.classifier.test_run(options)?;
        let cb = std::array::from_fn(|i| {
            let at = 48 + 4 * i;
            u32::from_ne_bytes(std::array::from_fn(|k| context_out[at + k]))
        });
        Ok(TestRun {
            returned: result.return_value.cast_signed(),
            duration: result.duration,
            cb,
        })
    }
}

impl Loaded {
    fn open(path: &Path) -> Result<Self, ProgramError> {
        let classifier = SchedClassifier::from_pin(path)?;
        let id = classifier.info()?.id();
        Ok(Self { classifier, id })
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, ProgramError> {
        Ok(self.classifier.fd()?.as_fd())
    }
}

fn refused(name: &str) -> impl FnOnce(ProgramError) -> KernelError {
    move |source| KernelError::Program {
        name: name.to_owned(),
        source: Box::new(source),
    }
}
