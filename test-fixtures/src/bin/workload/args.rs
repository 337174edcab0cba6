//! `MODE [--NAME VALUE]...`

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use crate::Error;

pub(crate) struct Args {
    mode: String,
    values: BTreeMap<String, String>,
}

impl Args {
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut words = words;
        let mode = words.next().unwrap_or_else(|| "help".to_owned());
        let mut values = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("{word:?} is no option"))?;
            let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self { mode, values })
    }

    pub(crate) fn mode(&self) -> &str {
        &self.mode
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn text(&self, name: &str) -> Result<&str, Error> {
        self.get(name).ok_or_else(|| format!("{} needs --{name}", self.mode).into())
    }

    pub(crate) fn number<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Error> {
        let text = self.text(name)?;
        text.parse().map_err(|e| format!("--{name} {text:?}: {e}").into())
    }

    pub(crate) fn number_or<T: FromStr<Err: Display>>(&self, name: &str, default: T) -> Result<T, Error> {
        if self.values.contains_key(name) { self.number(name) } else { Ok(default) }
    }
}
