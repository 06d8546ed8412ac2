//! Runs functions of an object, as the kernel's interpreter would.
//!
//! Of helpers it has those that a decision needs: the look-up in a map, and a clock that
//! stands still. A function is run on one way only, with the maps as the test has filled
//! them, so that the loads come in the order in which a processor would meet them.

use std::collections::BTreeMap;

use super::{Instruction, Object, code};

/// Most instructions of one run; the programs take some thousands.
const MOST_INSTRUCTIONS: usize = 1_000_000;
/// Bytes of stack of each function.
const STACK_BYTES: usize = 512;

/// Numbers of helpers (linux/bpf.h).
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const JIFFIES: i32 = 118;
}

/// A load from a value of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The map.
    pub map: String,
    /// Index of the value.
    pub index: u32,
    /// First byte, counted from the value's.
    pub offset: usize,
    /// Number of bytes.
    pub bytes: usize,
}

/// Memory that a function can address.
#[derive(Clone, Debug)]
struct Region {
    /// Map and index of the value that it is, if it is one.
    value: Option<(String, u32)>,
    bytes: Vec<u8>,
}

/// A map.
#[derive(Clone, Debug)]
enum Map {
    /// An array, by the regions of its values.
    Array(Vec<usize>),
    /// An array of maps, all of whose values are this map.
    Outer(String),
}

/// Runs functions of an object.
#[derive(Debug)]
pub struct Interpreter<'a> {
    object: &'a Object,
    /// An address is the number of its region + 1 in the high word, and an offset.
    regions: Vec<Region>,
    maps: BTreeMap<String, Map>,
    /// Region by the name of a map, whose address stands for the map, or of a variable.
    symbols: BTreeMap<String, usize>,
    loads: Vec<Load>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter whose maps have no values yet.
    pub fn new(object: &'a Object) -> Self {
        let mut new = Self {
            object,
            regions: Vec::new(),
            maps: BTreeMap::new(),
            symbols: BTreeMap::new(),
            loads: Vec::new(),
        };
        for (name, bytes) in &object.globals {
            let region = new.region(None, bytes.clone());
            new.symbols.insert(name.clone(), region);
        }
        new
    }

    /// Gives an array its values.
    pub fn array(&mut self, name: &str, values: impl IntoIterator<Item = Vec<u8>>) {
        let regions = (0..)
            .zip(values)
            .map(|(index, bytes)| {
                let value = Some((name.to_owned(), index));
                self.region(value, bytes)
            })
            .collect();
        self.maps.insert(name.to_owned(), Map::Array(regions));
    }

    /// Gives a global variable another value.
    ///
    /// # Panics
    ///
    /// Panics if the object has no variable of this name and size.
    pub fn variable(&mut self, name: &str, bytes: &[u8]) {
        self.regions[self.symbols[name]]
            .bytes
            .copy_from_slice(bytes);
    }

    /// Makes all values of an array of maps the array `inner`.
    pub fn outer(&mut self, name: &str, inner: &str) {
        self.maps
            .insert(name.to_owned(), Map::Outer(inner.to_owned()));
        let region = self.region(None, Vec::new());
        self.symbols.insert(inner.to_owned(), region);
    }

    /// Memory with these bytes. Returns its address.
    pub fn memory(&mut self, bytes: Vec<u8>) -> u64 {
        address(self.region(None, bytes))
    }

    /// The loads from maps so far, in their order.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// Calls a function. Returns what it returns.
    ///
    /// # Panics
    ///
    /// Panics if it does what no verifier would let it do, or what is not modelled here.
    pub fn call(&mut self, name: &str, arguments: &[u64]) -> u64 {
        let object = self.object;
        let mut registers = [0; 11];
        for (to, from) in registers.iter_mut().skip(1).zip(arguments) {
            *to = *from;
        }
        let stack = self.region(None, vec![0; STACK_BYTES]);
        registers[10] = address(stack) + STACK_BYTES as u64;
        let code = object
            .functions
            .get(name)
            .unwrap_or_else(|| panic!("there is no function {name}"));
        let mut next = 0;
        for _ in 0..MOST_INSTRUCTIONS {
            let one = &code[next];
            next += 1;
            match one.code {
                // Exit.
                0x95 => return registers[0],
                code::CALL => registers[0] = self.called(one, &registers),
                code::LOAD_WIDE => {
                    registers[usize::from(one.to)] = match &one.symbol {
                        Some(name) => address(self.symbols[name]),
                        None => {
                            u64::from(one.immediate.cast_unsigned())
                                | u64::from(code[next].immediate.cast_unsigned()) << 32
                        }
                    };
                    next += 1;
                }
                _ => match one.code & 7 {
                    1..=3 => self.access(one, &mut registers),
                    4 | 7 => calculate(one, &mut registers),
                    _ => {
                        if jumps(one, &registers) {
                            next = next.strict_add_signed(isize::from(one.offset));
                        }
                    }
                },
            }
        }
        panic!("{name} does not end");
    }

    fn region(&mut self, value: Option<(String, u32)>, bytes: Vec<u8>) -> usize {
        self.regions.push(Region { value, bytes });
        self.regions.len() - 1
    }

    /// Calls a function or a helper. Returns what that returns.
    fn called(&mut self, call: &Instruction, registers: &[u64; 11]) -> u64 {
        if let Some(name) = super::callee(call) {
            return self.call(name, &registers[1..6]);
        }
        match call.immediate {
            helper::MAP_LOOKUP => {
                let index = usize::try_from(self.load(registers[2], 4)).expect("four bytes");
                let mut symbols = self.symbols.iter();
                let map = symbols.find(|(_, region)| address(**region) == registers[1]);
                let (name, _) = map.expect("a look-up names a map");
                match self.maps.get(name) {
                    Some(Map::Array(values)) => {
                        values.get(index).map_or(0, |&value| address(value))
                    }
                    Some(Map::Outer(inner)) => address(self.symbols[inner]),
                    None => 0,
                }
            }
            helper::JIFFIES => 0,
            other => panic!("helper {other} is not modelled"),
        }
    }

    /// Loads or stores, plainly or atomically.
    fn access(&mut self, one: &Instruction, registers: &mut [u64; 11]) {
        const ATOMIC: u8 = 0xc0;
        const EXCHANGE_IF_EQUAL: i32 = 0xf1;
        let bytes = [4, 2, 1, 8][usize::from(one.code >> 3 & 3)];
        let (to, from) = (usize::from(one.to), usize::from(one.from));
        let at = |register: u64| register.wrapping_add_signed(i64::from(one.offset));
        match (one.code & 7, one.code & 0xe0) {
            (1, _) => {
                self.note(at(registers[from]), bytes);
                registers[to] = self.load(at(registers[from]), bytes);
            }
            (2, _) => self.store(
                at(registers[to]),
                bytes,
                i64::from(one.immediate).cast_unsigned(),
            ),
            (3, ATOMIC) => {
                let place = at(registers[to]);
                let old = self.load(place, bytes);
                if one.immediate == EXCHANGE_IF_EQUAL {
                    if old == registers[0] {
                        self.store(place, bytes, registers[from]);
                    }
                    registers[0] = old;
                } else {
                    assert_eq!(one.immediate, 0, "of atomics, addition is modelled");
                    self.store(place, bytes, old.wrapping_add(registers[from]));
                }
            }
            _ => self.store(at(registers[to]), bytes, registers[from]),
        }
    }

    /// The bytes at an address.
    fn bytes(&mut self, address: u64, bytes: usize) -> &mut [u8] {
        let region = (address >> 32)
            .checked_sub(1)
            .and_then(|region| self.regions.get_mut(usize::try_from(region).ok()?));
        let start = address as u32 as usize;
        region
            .and_then(|region| region.bytes.get_mut(start..start + bytes))
            .unwrap_or_else(|| panic!("{bytes} bytes at {address:#x} are nowhere"))
    }

    fn load(&mut self, address: u64, bytes: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(self.bytes(address, bytes));
        u64::from_le_bytes(wide)
    }

    fn store(&mut self, address: u64, bytes: usize, value: u64) {
        let value = value.to_le_bytes();
        self.bytes(address, bytes).copy_from_slice(&value[..bytes]);
    }

    /// Writes down a load if it is from a map.
    fn note(&mut self, address: u64, bytes: usize) {
        let region = self.regions.get((address >> 32) as usize - 1);
        if let Some((map, index)) = region.and_then(|region| region.value.clone()) {
            self.loads.push(Load {
                map,
                index,
                offset: address as u32 as usize,
                bytes,
            });
        }
    }
}

/// The address of a region's first byte.
fn address(region: usize) -> u64 {
    (region as u64 + 1) << 32
}

/// The second operand: a register, or the immediate value.
fn operand(one: &Instruction, registers: &[u64; 11]) -> u64 {
    if one.code & 8 != 0 {
        registers[usize::from(one.from)]
    } else {
        i64::from(one.immediate).cast_unsigned()
    }
}

fn calculate(one: &Instruction, registers: &mut [u64; 11]) {
    let to = registers[usize::from(one.to)];
    let wide = one.code & 7 == 7;
    let (a, b) = if wide {
        (to, operand(one, registers))
    } else {
        (
            u64::from(to as u32),
            u64::from(operand(one, registers) as u32),
        )
    };
    let bits = if wide { 64 } else { 32 };
    let shift = b as u32 & (bits - 1);
    let result = match one.code >> 4 {
        0x0 => a.wrapping_add(b),
        0x1 => a.wrapping_sub(b),
        0x2 => a.wrapping_mul(b),
        0x3 => a.checked_div(b).unwrap_or(0),
        0x4 => a | b,
        0x5 => a & b,
        0x6 => a << shift,
        0x7 => a >> shift,
        0x8 => a.wrapping_neg(),
        0x9 => a.checked_rem(b).unwrap_or(a),
        0xa => a ^ b,
        0xb => b,
        0xc if wide => (a.cast_signed() >> shift).cast_unsigned(),
        0xc => u64::from(((a as u32).cast_signed() >> shift).cast_unsigned()),
        0xd => swapped(one, to),
        _ => panic!("operation {:#x} is not modelled", one.code),
    };
    let swap = one.code >> 4 == 0xd;
    registers[usize::from(one.to)] = if wide || swap {
        result
    } else {
        u64::from(result as u32)
    };
}

/// The low bytes of a value in little-endian (source bit 0) or big-endian order; both
/// kinds of host that are supported are little-endian.
fn swapped(one: &Instruction, value: u64) -> u64 {
    match (one.code & 8 != 0, one.immediate) {
        (true, 16) => u64::from((value as u16).swap_bytes()),
        (true, 32) => u64::from((value as u32).swap_bytes()),
        (true, 64) => value.swap_bytes(),
        (false, bits) => value & (u64::MAX >> (64 - bits)),
        (true, bits) => panic!("there are no {bits} bits to swap"),
    }
}

/// Returns `true` if a jump is taken.
fn jumps(one: &Instruction, registers: &[u64; 11]) -> bool {
    let (mut a, mut b) = (registers[usize::from(one.to)], operand(one, registers));
    let (mut signed_a, mut signed_b) = (a.cast_signed(), b.cast_signed());
    if one.code & 7 == 6 {
        (a, b) = (u64::from(a as u32), u64::from(b as u32));
        signed_a = i64::from((a as u32).cast_signed());
        signed_b = i64::from((b as u32).cast_signed());
    }
    match one.code >> 4 {
        0x0 => true,
        0x1 => a == b,
        0x2 => a > b,
        0x3 => a >= b,
        0x4 => a & b != 0,
        0x5 => a != b,
        0x6 => signed_a > signed_b,
        0x7 => signed_a >= signed_b,
        0xa => a < b,
        0xb => a <= b,
        0xc => signed_a < signed_b,
        0xd => signed_a <= signed_b,
        _ => panic!("jump {:#x} is not modelled", one.code),
    }
}
