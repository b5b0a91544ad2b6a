//! The house as `docs/ARCHITECTURE.md` describes it, held against the code: who imports whom, what stays in which room, how
//! large files may grow. The document is read by these tests, so it cannot drift.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    unreachable_pub,
    reason = "a test"
)]

#[path = "../it/support/ca.rs"]
mod ca;
mod dependencies;
mod deploy;
mod document;
mod shown;
mod source;
mod words;

use std::collections::BTreeSet;

use document::{code_words, table, words_by_word};
use source::{files_below, imports, read, sources};

const MAP: &str = "docs/ARCHITECTURE.md";
/// No source file is longer; tests aside.
const MOST_LINES: usize = 500;

/// The rooms that every other may import, named in one sentence of the map.
fn ground() -> BTreeSet<String> {
    let text = read(MAP);
    let sentence =
        text.lines().find(|l| l.starts_with("The ground floor: ")).expect("names the ground floor");
    code_words(sentence).into_iter().collect()
}

#[test]
fn rooms_import_only_what_the_map_says() {
    let ground = ground();
    let map = words_by_word(MAP, "Rooms", 0, 2);
    let mut wrong = Vec::new();
    for (room, found) in imports(&sources()) {
        let Some(allowed) = map.get(&room) else {
            wrong.push(format!("`{room}` is not in the table"));
            continue;
        };
        let allowed: BTreeSet<_> = allowed.iter().cloned().collect();
        let found: BTreeSet<_> = found.difference(&ground).cloned().collect();
        wrong.extend(found.difference(&allowed).map(|other| format!("`{room}` imports `{other}`")));
        wrong.extend(allowed.difference(&found).map(|other| format!("`{room}` no longer imports `{other}`")));
    }
    assert!(wrong.is_empty(), "the code and the table \"Rooms\" of {MAP} differ:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_of_the_map_is_there() {
    let rooms: BTreeSet<_> = sources().into_iter().map(|s| s.room).collect();
    for room in words_by_word(MAP, "Rooms", 0, 2).keys() {
        assert!(rooms.contains(room), "{MAP} names a room `{room}` that is not in src/");
    }
}

#[test]
fn the_ground_floor_imports_nothing_above_it() {
    let ground = ground();
    for (room, found) in imports(&sources()).into_iter().filter(|(room, _)| ground.contains(room)) {
        assert!(found.is_subset(&ground), "`{room}` imports {:?}", found.difference(&ground));
    }
}

#[test]
fn nothing_climbs_out_of_its_room_by_super() {
    for source in sources() {
        let climb = "super::".repeat(source.depth);
        assert!(!source.code.contains(&climb), "{}: write crate:: instead of {climb}", source.path.display());
    }
}

#[test]
fn what_stays_in_its_room_stays_there() {
    let sources = sources();
    let mut wrong = Vec::new();
    for row in table(MAP, "What stays in its room") {
        let allowed: BTreeSet<_> = code_words(&row[1]).into_iter().collect();
        for word in code_words(&row[0]) {
            let found: BTreeSet<_> =
                sources.iter().filter(|s| names(&s.code, &word)).map(|s| s.room.clone()).collect();
            wrong.extend(found.difference(&allowed).map(|room| format!("`{word}` is in `{room}`")));
            if found.is_empty() {
                wrong.push(format!("`{word}` is nowhere: take it out of the table"));
            }
        }
    }
    assert!(wrong.is_empty(), "{MAP}, \"What stays in its room\":\n{}", wrong.join("\n"));
}

/// Whether the word stands in the code, not as part of a longer one. A crate (`redis::`) is not a module of the same name.
fn names(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = &code[..at];
        let inner = word.ends_with("::") && before.ends_with("::");
        let glued_before = inner || word.starts_with(is_word) && before.ends_with(is_word);
        let glued_after = word.ends_with(is_word) && code[at + word.len()..].starts_with(is_word);
        !glued_before && !glued_after
    })
}

#[test]
fn no_source_file_grows_beyond_its_limit() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= MOST_LINES, "{}: {lines} lines; what second thing moved in?", source.path.display());
    }
}

#[test]
fn every_rpc_and_every_service_is_documented() {
    let mut rpcs = 0;
    for path in files_below("proto") {
        let text = read(&path);
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (before, line) in lines.iter().zip(&lines[1..]) {
            let declared = line.starts_with("rpc ") || line.starts_with("service ");
            rpcs += usize::from(line.starts_with("rpc "));
            assert!(
                !declared || before.starts_with("//"),
                "{}: {line} says nothing of itself",
                path.display()
            );
        }
    }
    assert!(rpcs >= 16, "{rpcs} RPCs were found");
}
