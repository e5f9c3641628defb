//! Numbers that may not be mixed up: each has only the arithmetic that makes sense for it.

use std::fmt;

/// A price in minor units of its instrument (`price_scale` decimals). Never zero on an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Price(pub u64);

impl Price {
    /// Highest price an instrument or order may carry: `Price::MAX x Quantity::MAX` fits in a u128.
    pub const MAX: Self = Self(1_000_000_000_000_000_000);

    /// Value of `quantity` at this price, in minor units.
    pub fn value_of(self, quantity: Quantity) -> u128 {
        u128::from(self.0) * u128::from(quantity.0)
    }

    /// The price as exact decimal text with `scale` decimals: `Price(25050)` at 2 is `250.50`.
    pub fn to_decimal(self, scale: u8) -> String {
        if scale == 0 {
            return self.0.to_string();
        }
        let unit = 10u64.pow(u32::from(scale));
        format!("{}.{:0width$}", self.0 / unit, self.0 % unit, width = usize::from(scale))
    }
}

/// A number of shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Quantity(pub u64);

impl Quantity {
    pub const ZERO: Self = Self(0);
    /// Largest quantity of one order. A level of 2^32 such orders still fits in a u64.
    pub const MAX: Self = Self(1_000_000_000);

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// What is left after a fill of `filled`; `None` once nothing is.
    ///
    /// # Panics
    /// When more is filled than was open: an engine bug.
    pub fn minus_fill(self, filled: Self) -> Option<Self> {
        match self.0 - filled.0 {
            0 => None,
            left => Some(Self(left)),
        }
    }
}

/// Which side of the book. Buy matches the lowest Sell and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Side {
    Buy,
    Sell,
}

impl Side {
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    /// Whether a limit at `limit` on this side trades against a resting order at `resting`.
    pub fn crosses(self, limit: Price, resting: Price) -> bool {
        match self {
            Self::Buy => limit >= resting,
            Self::Sell => limit <= resting,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "BUY",
            Self::Sell => "SELL",
        }
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Position of a record in one partition of one topic; the first is 0.
    Offset
);
number!(
    /// Number of an output of one machine: dense, the first is 1; 0 means "none yet".
    Seq
);
number!(
    /// Number of ownership changes of a machine since its birth.
    Epoch
);
number!(
    /// Microseconds since 1970-01-01 UTC, as stamped by the log.
    Micros
);

/// Which command of which gateway an output answers. `gateway` is drawn at random at each start of a gateway, never
/// zero; `Origin::NONE` marks a record that no gateway of ours wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Origin {
    pub gateway: u64,
    pub counter: u64,
}

impl Origin {
    pub const NONE: Self = Self { gateway: 0, counter: 0 };

    /// The 16 bytes of the log record's header, little endian.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut b = [0; 16];
        b[..8].copy_from_slice(&self.gateway.to_le_bytes());
        b[8..].copy_from_slice(&self.counter.to_le_bytes());
        b
    }

    /// Reads [`Self::to_bytes`]; anything that is not 16 bytes is `NONE`.
    pub fn from_bytes(b: &[u8]) -> Self {
        let Ok(b) = <[u8; 16]>::try_from(b) else { return Self::NONE };
        let n = u128::from_le_bytes(b);
        Self { gateway: n as u64, counter: (n >> 64) as u64 }
    }
}

/// A 128-bit digest of a machine's state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_print_exactly() {
        assert_eq!(Price(25050).to_decimal(2), "250.50");
        assert_eq!(Price(7).to_decimal(4), "0.0007");
        assert_eq!(Price(7).to_decimal(0), "7");
    }

    #[test]
    fn an_origin_survives_its_bytes() {
        let o = Origin { gateway: 7, counter: u64::MAX };
        assert_eq!(Origin::from_bytes(&o.to_bytes()), o);
        assert_eq!(Origin::from_bytes(b"short"), Origin::NONE);
    }
}
