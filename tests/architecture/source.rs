//! Just enough reading of Rust to know which room names which: comments, texts and what is compiled for tests alone are taken
//! out, what remains is searched for paths.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One source file of the library or the binary.
pub struct Source {
    /// From the repository's root.
    pub path: PathBuf,
    /// The top-level module it belongs to.
    pub room: String,
    /// How many modules it lies below the crate's root.
    pub depth: usize,
    /// As written.
    pub text: String,
    /// Without comments, texts and test code.
    pub code: String,
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a directory, in order, by a path from the repository's root.
pub fn files_below(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => waiting.push(path),
                false => found.push(path.strip_prefix(root()).expect("below the root").to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// A file of the repository.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All of `src/` that is compiled outside tests.
pub fn sources() -> Vec<Source> {
    let paths: Vec<_> =
        files_below("src").into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).collect();
    let mut read_in: Vec<Source> = paths.into_iter().map(source).collect();
    let test_only: BTreeSet<PathBuf> = read_in.iter().flat_map(test_modules).collect();
    read_in.retain(|s| !test_only.iter().any(|t| s.path == t.with_extension("rs") || s.path.starts_with(t)));
    read_in
}

fn source(path: PathBuf) -> Source {
    let text = read(&path);
    let inside = path.strip_prefix("src").expect("in src").with_extension("");
    let mut names: Vec<_> = inside.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "mod");
    let code = without_tests(&without_comments_and_texts(&text));
    Source { path, room: names.first().expect("a name").clone(), depth: names.len(), text, code }
}

/// Where the modules lie that this file declares for tests alone: `src/a/b` for `src/a/b.rs` and `src/a/b/`.
fn test_modules(source: &Source) -> Vec<PathBuf> {
    let code = without_comments_and_texts(&source.text);
    let stem = source.path.with_extension("");
    let here = match stem.file_name().is_some_and(|n| n == "mod" || n == "lib" || n == "main") {
        true => stem.parent().expect("a directory").to_owned(),
        false => stem,
    };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let item = &code[at..end_of_item(&code, at)];
        let declared = item.split_once("mod ").and_then(|(_, rest)| rest.trim().strip_suffix(';'));
        found.extend(declared.map(|name| here.join(name.trim())));
    }
    found
}

/// Comments and the insides of texts become spaces; line feeds stay.
pub fn without_comments_and_texts(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n"),
            [b'/', b'*', ..] => find(bytes, at + 2, b"*/") + 2,
            [b'r', b'"' | b'#', ..] if !is_word(at.checked_sub(1).map(|i| bytes[i])) => raw_text(bytes, at),
            [b'"', ..] => plain_text(bytes, at),
            [b'\'', b'\\', ..] => find(bytes, at + 3, b"'") + 1,
            [b'\'', _, b'\'', ..] => at + 3,
            _ => at,
        };
        let end = end.min(bytes.len());
        out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let from = from.min(bytes.len());
    bytes[from..].windows(what.len()).position(|w| w == what).map_or(bytes.len(), |i| from + i)
}

fn plain_text(bytes: &[u8], at: usize) -> usize {
    let mut i = at + 1;
    while i < bytes.len() && bytes[i] != b'"' {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r"..."` or `r#"..."#`; `at` itself if it is only a raw identifier.
fn raw_text(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return at;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    find(bytes, at + 2 + hashes, &close) + close.len()
}

/// Takes out every item under `#[cfg(test)]`.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(at) = out.find("#[cfg(test)]") {
        let end = end_of_item(&out, at);
        out.replace_range(at..end, "");
    }
    out
}

/// The end of the item whose attribute begins at `at`: a semicolon, or the brace that closes its first brace.
fn end_of_item(code: &str, at: usize) -> usize {
    let mut depth = 0usize;
    for (i, c) in code[at..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ';' || c == '}') {
            return at + i + 1;
        }
    }
    code.len()
}

/// Which rooms each room names by `crate::`.
pub fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let named = found.entry(source.room.clone()).or_default();
        named.extend(named_rooms(&source.code).into_iter().filter(|room| *room != source.room));
    }
    found
}

/// The rooms in `crate::a::b` and in `crate::{a::b, c}`; for the binary, which sees the library from outside, in `taskpass::a`.
pub fn named_rooms(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "taskpass::"] {
        for (at, _) in code.match_indices(prefix) {
            if is_word(at.checked_sub(1).map(|i| code.as_bytes()[i])) {
                continue;
            }
            let rest = code[at + prefix.len()..].trim_start();
            match rest.strip_prefix('{') {
                None => rooms.extend(first_word(rest)),
                Some(list) => rooms.extend(top_level(list).into_iter().filter_map(first_word)),
            }
        }
    }
    rooms
}

fn first_word(text: &str) -> Option<String> {
    let word: String =
        text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// The parts of a list in braces, split at the commas that are not in inner braces.
fn top_level(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0usize, 0, Vec::new());
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                parts.push(&list[from..i]);
                from = i + 1;
            }
            '}' if depth == 0 => {
                parts.push(&list[from..i]);
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    parts
}

#[test]
fn a_path_in_a_comment_a_text_or_a_test_is_no_import() {
    let text = r##"
        //! See crate::comment.
        use crate::{one::{A, B}, two};
        /* crate::comment */ const C: char = '"'; fn f() { crate::three::g("crate::text", r#"crate::raw"#, 'x', '\''); }
        #[cfg(test)]
        use crate::tested;
        #[cfg(test)]
        mod tests { use crate::tested; fn t() { if true { crate::tested::x() } } }
        use crate::four; let x = mycrate::five;
    "##;
    let code = without_tests(&without_comments_and_texts(text));
    let rooms: Vec<_> = named_rooms(&code).into_iter().collect();
    assert_eq!(rooms, ["four", "one", "three", "two"]);
}
