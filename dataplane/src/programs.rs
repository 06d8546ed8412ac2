//! The programs in the object, and running them on made-up packets.

use std::{fmt, time::Duration};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use cofferdam_verdict::counter::Hook;

/// The compiled kernel programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("COFFERDAM_EBPF_OBJECT"));

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// Its symbol.
    pub name: &'static str,
    /// Where it judges.
    pub hook: Hook,
    /// Whether it is made for a clsact filter rather than a tcx link.
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

    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::FROM_WORKLOAD,
        Self::FROM_WORKLOAD_FILTER,
        Self::TO_WORKLOAD,
        Self::TO_WORKLOAD_FILTER,
    ];
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a loaded program cost the verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedProgram {
    /// The program.
    pub program: Program,
    /// Instructions the verifier walked; none where the kernel does not tell.
    pub instructions: Option<u32>,
}

/// What a test run sets beside the bytes of the packet.
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

/// What a test run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return value: 2 is drop, 0 pass, −1 go on.
    pub returned: i32,
    /// Mean time of one repetition.
    pub duration: Duration,
    /// The control buffer afterwards.
    pub cb: [u32; 5],
}

/// Runs a loaded program on a packet, `repeat` times (`BPF_PROG_TEST_RUN`).
pub(crate) fn test_run(
    ebpf: &mut Ebpf,
    name: &str,
    packet: &[u8],
    context: &TestContext,
    repeat: u32,
) -> Result<TestRun, ProgramError> {
    let program: &mut SchedClassifier = program(ebpf, name)?;
    let context_in = context.to_bytes();
    let mut context_out = [0; CONTEXT_BYTES];
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.ctx_in = Some(&context_in);
    options.ctx_out = Some(&mut context_out);
    options.repeat = repeat;
    let result = program.test_run(options)?;
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

/// A program of the object by its symbol.
pub(crate) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()
}
