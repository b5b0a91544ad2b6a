//! What text of others may not hold: goals, notes and names are read by people, in terminals and logs, who decide by what they see.

/// What a character does that is not seen where it stands; `None` for all others. Control characters are none of these: [`char::is_control`].
pub const fn unseen(c: char) -> Option<&'static str> {
    match c {
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some("turns the direction of text")
        }
        '\u{2028}' | '\u{2029}' => Some("breaks lines"),
        '\u{200b}'..='\u{200d}'
        | '\u{2060}'..='\u{2064}'
        | '\u{feff}'
        | '\u{180e}'
        | '\u{e0000}'..='\u{e007f}' => Some("cannot be seen"),
        _ => None,
    }
}
