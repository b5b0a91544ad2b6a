//! What the documents show for configuration and policies, held against what the broker takes.

use toml::Table;

use crate::source::{read, root};

/// The documents that people copy from.
fn documents() -> Vec<String> {
    let docs = std::fs::read_dir(root().join("docs")).expect("the documents");
    let names = docs.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    let pages = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    pages.chain(["README.md".to_owned()]).collect()
}

/// The blocks of a language in all documents, without their indentation, each with its document.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for document in documents() {
        let (text, fence) = (read(&document), format!("```{language}"));
        let mut lines = text.lines();
        while let Some(opens) = lines.find(|line| line.trim_start() == fence) {
            let indent = opens.len() - fence.len();
            let block = lines.by_ref().take_while(|line| line.trim_start() != "```");
            let block: String = block.map(|line| format!("{}\n", line.get(indent..).unwrap_or(""))).collect();
            found.push((document.clone(), block));
        }
    }
    found
}

/// Where the first section begins.
fn first_section(text: &str) -> usize {
    if text.starts_with('[') { 0 } else { text.find("\n[").map_or(text.len(), |at| at + 1) }
}

/// A configuration with this block in it, whose settings and sections stand in the place of those of the same name.
fn with(sample: &str, block: &str) -> String {
    let shown: Table = toml::from_str(block).unwrap_or_else(|e| panic!("{e}\n{block}"));
    let (settings, sections) = sample.split_at(first_section(sample));
    let (own_settings, own_sections) = block.split_at(first_section(block));
    let is_shown = |name: &str| shown.contains_key(name.split(['.', ' ', ']']).next().unwrap_or(name));
    let kept_settings = settings.lines().filter(|line| !is_shown(line)).map(|line| format!("{line}\n"));
    let kept_sections = sections.split("\n[").map(|it| it.trim_start_matches('[')).filter(|it| !is_shown(it));
    let kept_sections = kept_sections.map(|it| {
        let opens = if it.lines().next().is_some_and(|line| line.ends_with("]]")) { "[[" } else { "[" };
        format!("{opens}{it}\n")
    });
    let whole = [own_settings.to_owned(), kept_settings.collect(), kept_sections.collect()];
    whole.concat() + own_sections
}

#[test]
fn every_configuration_in_the_documents_is_one() {
    let sample = read("deploy/sample/taskpass.toml");
    let shown = blocks("toml");
    assert!(shown.len() >= 8, "{shown:?}");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("taskpass.toml");
    // Which of the builds is this?
    let has_all = |block: &str| cfg!(feature = "pkcs11") || !block.contains("pkcs11");
    for (document, block) in shown.into_iter().filter(|(_, block)| has_all(block)) {
        let whole = with(&sample, &block);
        std::fs::write(&file, &whole).expect("written");
        if let Err(problems) = taskpass::config::load(&file) {
            panic!("{document}: {problems:?}\n{whole}");
        }
    }
}

#[test]
fn every_policy_in_the_documents_is_one() {
    let shown = blocks("cedar");
    assert!(!shown.is_empty());
    for (document, block) in shown {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("shown.cedar"), &block).expect("written");
        if let Err(problems) = taskpass::policy::PolicyEngine::open(dir.path()) {
            panic!("{document}: {problems:?}\n{block}");
        }
    }
}
