//! The compiled kernel programs, instruction by instruction.
//!
//! Loads that the compiler kept, their order, and the depth of a function's stack cannot be
//! read off the source. [`Object`] takes an object apart; [`Interpreter`] runs one of its
//! functions and writes down every load from a map.

mod interpreter;
mod loops;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

pub use interpreter::{Interpreter, Load};

/// Bytes of an instruction.
const BYTES: usize = 8;
/// The frame pointer.
const FRAME: u8 = 10;

/// Instruction codes (Linux, Documentation/bpf/standardization/instruction-set.rst).
pub(crate) mod code {
    pub(crate) const LOAD_WIDE: u8 = 0x18;
    pub(crate) const CALL: u8 = 0x85;
    pub(crate) const MOVE: u8 = 0xbf;
    pub(crate) const ADD: u8 = 0x07;
    /// Operation of a jump: back to the caller.
    pub(crate) const EXIT: u8 = 0x90;
    /// Operation of a jump: calls a function, and goes on behind.
    pub(crate) const CALLS: u8 = 0x80;
    /// Operation of a jump: without a condition.
    pub(crate) const ALWAYS: u8 = 0x00;
    /// Source register of a call: it is one of a function of the object.
    pub(crate) const TO_FUNCTION: u8 = 1;
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation and class.
    pub code: u8,
    /// Destination register.
    pub to: u8,
    /// Source register.
    pub from: u8,
    /// Offset of a jump or of an address.
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
    /// Symbol it refers to: a map, a global variable or a function.
    pub symbol: Option<String>,
}

/// An object of kernel programs.
#[derive(Clone, Debug)]
pub struct Object {
    functions: BTreeMap<String, Vec<Instruction>>,
    /// Initial bytes of the global variables. A map has those of its declaration.
    globals: BTreeMap<String, Vec<u8>>,
}

impl Object {
    /// Takes an object apart.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are no object of kernel programs.
    pub fn parse(bytes: &[u8]) -> Self {
        let file = object::File::parse(bytes).expect("an object file");
        let mut relocations = HashMap::new();
        for section in file.sections() {
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else {
                    continue;
                };
                relocations.insert((section.index(), offset), symbol);
            }
        }
        let mut functions = BTreeMap::new();
        let mut globals = BTreeMap::new();
        for symbol in file.symbols() {
            let (Some(section), Ok(name)) = (symbol.section_index(), symbol.name()) else {
                continue;
            };
            let whole = file
                .section_by_index(section)
                .and_then(|section| section.data())
                .expect("the section of a symbol");
            let start = symbol.address();
            let data = usize::try_from(start).expect("objects are small");
            let size = usize::try_from(symbol.size()).expect("objects are small");
            let data = whole.get(data..data + size).expect("symbols lie in them");
            match symbol.kind() {
                SymbolKind::Text => {
                    let instruction = |(i, bytes): (usize, &[u8; BYTES])| {
                        let mut one = decode(*bytes);
                        let at = (section, start + (i * BYTES) as u64);
                        one.symbol = relocations.get(&at).map(|&symbol| {
                            let symbol = file.symbol_by_index(symbol).expect("its table");
                            let name = symbol.name().expect("symbols have names");
                            name.to_owned()
                        });
                        one
                    };
                    let (instructions, _) = data.as_chunks::<BYTES>();
                    let instructions = instructions.iter().enumerate().map(instruction);
                    functions.insert(name.to_owned(), instructions.collect());
                }
                SymbolKind::Data => {
                    globals.insert(name.to_owned(), data.to_vec());
                }
                _ => {}
            }
        }
        Self { functions, globals }
    }

    /// Bytes of stack that a program takes with all functions it calls, on the deepest
    /// way through them, as the verifier counts them: each function's rounded up to 32.
    ///
    /// # Panics
    ///
    /// Panics if there is no such program.
    pub fn stack_bytes(&self, program: &str) -> u32 {
        let function = &self.functions[program];
        let called = function.iter().filter_map(callee).collect::<BTreeSet<_>>();
        let deepest = called.into_iter().map(|name| self.stack_bytes(name)).max();
        frame_bytes(function).next_multiple_of(32) + deepest.unwrap_or(0)
    }
}

/// The function that an instruction calls, if it does.
fn callee(instruction: &Instruction) -> Option<&str> {
    let calls = instruction.code == code::CALL && instruction.from == code::TO_FUNCTION;
    calls.then(|| {
        instruction
            .symbol
            .as_deref()
            .expect("calls name a function")
    })
}

/// Bytes of stack of one function: the lowest byte that it addresses, directly or by a
/// pointer that it makes. At least one, as the verifier has it.
fn frame_bytes(instructions: &[Instruction]) -> u32 {
    let mut lowest = -1;
    let mut pointers = BTreeSet::from([FRAME]);
    for one in instructions {
        // Loads and stores, plain and atomic: the address register is the source of a load
        // and the destination of a store.
        let address = match one.code & 7 {
            1 => Some(one.from),
            2 | 3 => Some(one.to),
            _ => None,
        };
        if address == Some(FRAME) {
            lowest = lowest.min(i32::from(one.offset));
        }
        match one.code {
            code::MOVE if one.from == FRAME => {
                pointers.insert(one.to);
            }
            code::ADD if pointers.contains(&one.to) => {
                lowest = lowest.min(one.immediate);
                pointers.remove(&one.to);
            }
            _ if matches!(one.code & 7, 0 | 1 | 4 | 7) => {
                pointers.remove(&one.to);
            }
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

fn decode(bytes: [u8; BYTES]) -> Instruction {
    let [code, registers, a, b, c, d, e, f] = bytes;
    Instruction {
        code,
        to: registers & 15,
        from: registers >> 4,
        offset: i16::from_le_bytes([a, b]),
        immediate: i32::from_le_bytes([c, d, e, f]),
        symbol: None,
    }
}
