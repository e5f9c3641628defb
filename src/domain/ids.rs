//! Names that travel: short printable ASCII held inline, so that a command is one block of memory.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadName {
    Empty,
    TooLong { max: usize },
    BadCharacter,
}

impl fmt::Display for BadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::TooLong { max } => write!(f, "is longer than {max} characters"),
            Self::BadCharacter => write!(f, "has a character that is not allowed"),
        }
    }
}

impl std::error::Error for BadName {}

/// At most `MAX` (< 256) bytes of printable ASCII without spaces; unused bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Text<const MAX: usize> {
    bytes: [u8; MAX],
    len: u8,
}

impl<const MAX: usize> Text<MAX> {
    const EMPTY: Self = Self { bytes: [0; MAX], len: 0 };

    fn new(s: &[u8], allowed: fn(u8) -> bool) -> Result<Self, BadName> {
        if s.is_empty() {
            return Err(BadName::Empty);
        }
        if s.len() > MAX {
            return Err(BadName::TooLong { max: MAX });
        }
        if !s.iter().all(|b| allowed(*b)) {
            return Err(BadName::BadCharacter);
        }
        let mut text = Self::EMPTY;
        text.bytes[..s.len()].copy_from_slice(s);
        text.len = s.len() as u8;
        Ok(text)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn as_str(&self) -> &str {
        // Only ASCII was let in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Text<$max>);

        impl $name {
            /// Longest accepted length, in bytes.
            pub const MAX: usize = $max;

            /// Checks and keeps a name.
            ///
            /// # Errors
            /// [`BadName`] when it is empty, too long, or has a character outside the allowed set.
            pub fn new(s: &str) -> Result<Self, BadName> {
                Self::from_bytes(s.as_bytes())
            }

            /// Same as [`Self::new`], from bytes.
            ///
            /// # Errors
            /// As [`Self::new`].
            pub fn from_bytes(s: &[u8]) -> Result<Self, BadName> {
                Ok(Self(Text::new(s, $allowed)?))
            }

            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }

            /// Its bytes, with zeros behind them up to [`Self::MAX`].
            #[inline]
            pub fn padded(&self) -> &[u8; Self::MAX] {
                &self.0.bytes
            }

            /// Its length in bytes, 1 to [`Self::MAX`].
            #[inline]
            #[allow(clippy::len_without_is_empty)] // never empty
            pub fn len(&self) -> usize {
                self.0.len.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_bytes().hash(state);
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(s: &str) -> Result<Self, BadName> {
                Self::new(s)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::new(&s).map_err(|e| serde::de::Error::custom(format_args!("{} {e}", stringify!($name))))
            }
        }
    };
}

fn is_printable(b: u8) -> bool {
    (0x21..=0x7e).contains(&b)
}

fn is_symbol_character(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_')
}

fn is_node_character(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')
}

name!(
    /// A ticker: 1 to 16 of `A-Z 0-9 . - _`.
    Symbol, 16, is_symbol_character
);
name!(
    /// The client's own name of an order, unique per user: 1 to 36 printable ASCII characters (a UUID fits).
    OrderId, 36, is_printable
);
name!(
    /// Who trades: 1 to 36 printable ASCII characters (a Cognito `sub` fits).
    UserId, 36, is_printable
);
name!(
    /// A node of the cluster: 1 to 32 of `A-Z a-z 0-9 . - _`.
    NodeId, 32, is_node_character
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(Symbol::new("TSLA").unwrap().as_str(), "TSLA");
        assert_eq!(Symbol::new("tsla"), Err(BadName::BadCharacter));
        assert_eq!(Symbol::new(""), Err(BadName::Empty));
        assert_eq!(OrderId::new(&"x".repeat(37)), Err(BadName::TooLong { max: 36 }));
        assert_eq!(UserId::new("a b"), Err(BadName::BadCharacter));
    }
}
