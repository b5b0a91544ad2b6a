//! Tables and words of the documents, read so that tests can hold them against the code.

use std::collections::BTreeMap;

use crate::source::read;

/// The rows of the first table under a heading (`## Rooms`), each a list of cells without their outer spaces.
pub fn table(document: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let mut lines = text
        .lines()
        .skip_while(|line| line.trim_start_matches('#').trim() != heading || !line.starts_with('#'));
    assert!(lines.next().is_some(), "{document} has no heading {heading:?}");
    let section = lines.take_while(|line| !line.starts_with('#'));
    let rows: Vec<_> = section
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "{document}: no table under {heading:?}");
    rows
}

/// What stands between backticks.
pub fn code_words(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Two columns of a table as a map from the first word of one to the words of the other.
pub fn words_by_word(
    document: &str,
    heading: &str,
    key: usize,
    values: usize,
) -> BTreeMap<String, Vec<String>> {
    let rows = table(document, heading);
    rows.iter()
        .map(|row| {
            let name = code_words(&row[key]).into_iter().next();
            (name.unwrap_or_else(|| panic!("{document}: no name in {row:?}")), code_words(&row[values]))
        })
        .collect()
}
