//! The targets for a few seconds, with the same inputs in every run.

use std::fs;
use std::panic;
use std::path::Path;

use cofferdam_fuzz::Target;
use fastrand::Rng;

/// Seed of the inputs. Another number looks elsewhere.
const SEED: u64 = 1;
/// Longest input, in bytes; a repeated piece may make it longer once.
const LONGEST: usize = 16 << 10;

/// Some of whom the library's statements are about.
const SHOP: &[u8] = include_bytes!("../../policies/library/three-tier/pods.yaml");

/// Texts to begin with: those of the engine, and the library of policies.
fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seeds = Vec::new();
    for folder in ["fuzz/seeds", "policies/library"] {
        collect(&root.join(folder), &mut seeds);
    }
    assert!(seeds.len() >= 10, "{}", seeds.len());
    // Folders are listed in any order.
    seeds.sort();
    seeds
}

fn collect(folder: &Path, seeds: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, seeds);
        } else if (path.extension()).is_some_and(|one| one == "yaml" || one == "json") {
            seeds.push(fs::read(&path).unwrap());
        }
    }
}

/// The words that the engine puts in, too.
fn tokens() -> Vec<Vec<u8>> {
    let lines = include_str!("../tokens.dict").lines();
    let quoted = lines.filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    quoted.map(unescaped).collect()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match (first, behind) {
            (b'\\', [b'x', digits @ ..]) => {
                let digits = std::str::from_utf8(&digits[..2]).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                rest = &behind[3..];
            }
            (b'\\', [escaped, ..]) => {
                bytes.push(*escaped);
                rest = &behind[1..];
            }
            _ => bytes.push(*first),
        }
    }
    bytes
}

/// A few changes to a text: words put in, pieces cut out, doubled, repeated and taken
/// from another.
fn mutated(rng: &mut Rng, seeds: &[Vec<u8>], tokens: &[Vec<u8>]) -> Vec<u8> {
    let mut text = rng.choice(seeds).unwrap().clone();
    for _ in 0..rng.usize(1..5) {
        let start = rng.usize(0..=text.len());
        let end = text.len().min(start + rng.usize(0..24));
        match rng.u8(0..6) {
            0 => drop(text.drain(start..end)),
            1 => drop(text.splice(start..end, rng.choice(tokens).unwrap().iter().copied())),
            2 => {
                let piece = text[start..end].to_vec();
                text.splice(end..end, piece);
            }
            3 => {
                // What grows faster than the text shows in its time.
                let piece = text[start..end].repeat(rng.usize(1..60));
                text.splice(end..end, piece);
            }
            4 => {
                let other = rng.choice(seeds).unwrap();
                let from = rng.usize(0..other.len());
                let piece = &other[from..other.len().min(from + rng.usize(1..400))];
                text.splice(start..end, piece.iter().copied());
            }
            _ => {
                if let Some(byte) = text.get_mut(start) {
                    *byte = rng.u8(..);
                }
            }
        }
        text.truncate(LONGEST);
    }
    text
}

/// Gives a target so many inputs. One that it does not bear is kept in a file.
fn run(target: Target, inputs: usize, mut input: impl FnMut(&mut Rng) -> Vec<u8>) {
    let mut rng = Rng::with_seed(SEED);
    for number in 0..inputs {
        let bytes = input(&mut rng);
        if let Err(cause) = panic::catch_unwind(|| target.run(&bytes)) {
            let name = format!("cofferdam-fuzz-{}-{number}", target.as_str());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, &bytes).unwrap();
            eprintln!(
                "input {number} is kept: cargo xtask fuzz {} --repeat {}",
                target.as_str(),
                path.display()
            );
            panic::resume_unwind(cause);
        }
    }
}

#[test]
fn yaml_is_parsed_or_refused() {
    let (seeds, tokens) = (seeds(), tokens());
    run(Target::Yaml, 1_500, |rng| mutated(rng, &seeds, &tokens));
}

#[test]
fn documents_are_read_or_refused() {
    let (seeds, tokens) = (seeds(), tokens());
    run(Target::Documents, 600, |rng| mutated(rng, &seeds, &tokens));
}

#[test]
fn expectations_are_checked_or_refused() {
    let tokens = tokens();
    // Only these are about expectations.
    let seeds: Vec<Vec<u8>> = (seeds().into_iter())
        .filter(|text| text.windows(10).any(|word| word == b"PolicyTest"))
        .collect();
    assert!(seeds.len() >= 5, "{}", seeds.len());
    run(Target::Expectations, 600, |rng| {
        let text = mutated(rng, &seeds, &tokens);
        // What is stated lies in a file of its own in the library, beside others.
        [&text[..], b"\n---\n", SHOP].concat()
    });
}

#[test]
fn valid_documents_are_compiled() {
    run(Target::Compiler, 400, |rng| {
        let length = rng.usize(0..600);
        (0..length).map(|_| rng.u8(..)).collect()
    });
}

/// Headers as they begin, so that some bytes behind them are read.
const STARTS: [&[u8]; 4] = [
    &[
        4, 0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ],
    &[
        5, 0x46, 0, 0, 68, 0, 1, 0, 0, 64, 1, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ],
    &[8, 0x60, 0, 0, 0, 0, 80, 44, 255, 0xfd],
    &[12, 0, 1, 8, 0, 6, 4, 0, 1, 2],
];

#[test]
fn frames_are_parsed_or_refused() {
    run(Target::Packet, 20_000, |rng| {
        let mut bytes = STARTS[rng.usize(..STARTS.len())].to_vec();
        bytes.extend((0..rng.usize(0..200)).map(|_| match rng.u8(..3) {
            0 => rng.u8(..),
            _ => [0, 1, 4, 6, 17, 40, 44, 58, 60][rng.usize(..9)],
        }));
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes
    });
}

#[test]
fn flows_hold_on_both_hooks() {
    run(Target::Flows, 1_000, |rng| {
        let length = rng.usize(0..400);
        (0..length).map(|_| rng.u8(..)).collect()
    });
}

#[test]
fn the_words_of_the_dictionary_are_read_as_they_are_meant() {
    let tokens = tokens();
    assert!(tokens.contains(&b"---\n".to_vec()));
    assert!(tokens.contains(&br"\ud83d\ude00".to_vec()));
    assert!(tokens.contains(&"\u{feff}".as_bytes().to_vec()));
}
