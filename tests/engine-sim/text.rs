//! What the engine "generates": words that follow from the prompt alone, so that the same request is answered by the same bytes.
//! A prompt's tokens are its bytes in fours; an answer's tokens are words.

const WORDS: [&str; 32] = [
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty",
    "knoll", "larch", "maple", "nexus", "ocean", "pearl", "quartz", "ridge", "slate", "thorn",
    "umber", "vista", "willow", "xenon", "yarrow", "zephyr", "brook", "cliff", "dune", "flint",
    "glade", "heath",
];

/// FNV-1a over the parts, each with its end marked.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// The words that answer one prompt.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    random: u64,
    first: bool,
}

impl Words {
    /// The answer of `model` to `prompt`. Without valid weights (`garbage`) it is another one.
    pub(crate) fn answer(model: &str, prompt: &str, garbage: bool) -> Self {
        let weights: &[u8] = if garbage { b"garbage" } else { b"weights" };
        Self {
            random: hash(&[model.as_bytes(), prompt.as_bytes(), weights]),
            first: true,
        }
    }
}

impl Iterator for Words {
    type Item = String;

    /// Never ends. Splitmix64: a well mixed sequence from any seed.
    fn next(&mut self) -> Option<String> {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let word = WORDS[((mixed ^ (mixed >> 31)) % WORDS.len() as u64) as usize];
        let space = if self.first { "" } else { " " };
        self.first = false;
        Some(format!("{space}{word}"))
    }
}

/// A prompt's tokens.
pub(crate) fn tokens(text: &str) -> Vec<u32> {
    let pack = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |token, byte| (token << 8) | u32::from(*byte))
    };
    text.as_bytes().chunks(4).map(pack).collect()
}

/// How many tokens a prompt has.
pub(crate) fn token_count(text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}

/// The text of tokens; bytes that are no text become replacement characters.
pub(crate) fn detokenize(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .filter(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_prompt_has_the_same_answer() {
        let answer = |prompt, garbage| {
            Words::answer("m", prompt, garbage)
                .take(8)
                .collect::<String>()
        };
        assert_eq!(answer("hi", false), answer("hi", false));
        assert_ne!(answer("hi", false), answer("ho", false));
        assert_ne!(answer("hi", false), answer("hi", true));
    }

    #[test]
    fn tokens_come_back_as_text() {
        for text in ["", "a", "four", "five!", "größer than\nthat"] {
            assert_eq!(detokenize(&tokens(text)), text);
            assert_eq!(tokens(text).len() as u64, token_count(text));
        }
    }
}
