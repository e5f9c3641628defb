//! Why the book refused or ended something: a stable number in the log, a stable code at the edge.

macro_rules! reasons {
    ($($number:literal $name:ident $code:literal $text:literal;)*) => {
        /// Why the book refused or ended an order or command.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $text] $name = $number,)* }

        impl Reason {
            /// All of them, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable code that clients see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// One sentence for people.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads the number; `None` for one that this build does not know.
            pub fn from_number(n: u8) -> Option<Self> {
                match n { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    1 DuplicateOrder "duplicate_order" "this order id was used before by this user";
    2 UnknownOrder "unknown_order" "no open order of this user has this id";
    3 SymbolExists "symbol_exists" "the symbol is listed already";
    4 SymbolHalted "symbol_halted" "trading in this symbol is halted";
    5 InvalidPrice "invalid_price" "the price is zero or too large";
    6 PriceNotOnTick "price_not_on_tick" "the price is not a multiple of the tick size";
    7 PriceAboveLimit "price_above_limit" "the price is above the upper price limit";
    8 PriceBelowLimit "price_below_limit" "the price is below the lower price limit";
    9 InvalidQuantity "invalid_quantity" "the quantity is zero or too large";
    10 QuantityNotOnLot "quantity_not_on_lot" "the quantity is not a multiple of the lot size";
    11 OrderValueAboveMax "order_value_above_max" "price times quantity is above the largest order value";
    12 PostOnlyWouldTrade "post_only_would_trade" "a post-only order would have traded on entry";
    13 FokNotFillable "fok_not_fillable" "a fill-or-kill order could not be filled whole";
    14 IocRemainder "ioc_remainder" "what an immediate-or-cancel order could not fill at once was canceled";
    15 NoLiquidity "no_liquidity" "the market order found no more orders inside the price limits";
    16 SelfTrade "self_trade" "it would have traded with an order of the same user";
    17 CanceledByUser "canceled_by_user" "canceled by its owner";
    18 CancelAll "cancel_all" "canceled with all orders of its owner";
    19 ReplacedBelowFilled "replaced_below_filled" "the new total is not above what is filled already";
    20 NotSupported "not_supported" "the rules version of this symbol does not know this kind of order";
    21 InvalidCombination "invalid_combination" "these order options exclude each other";
    22 BookFull "book_full" "the book holds as many orders as it may";
    23 RulesVersionUnknown "rules_version_unknown" "this build does not know the rules version";
    24 InvalidInstrument "invalid_instrument" "the instrument's rules do not make sense together";
    25 AlreadyHalted "already_halted" "trading in this symbol is halted already";
    26 NotHalted "not_halted" "trading in this symbol is not halted";
    27 Expired "expired" "its time came";
    28 GatewayOnly "gateway_only" "this symbol takes new orders and replaces only from the exchange's own gateways";
    29 SignatureVoid "signature_void" "its gateway's signature had run out or was used before; it touched nothing and can be sent again";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_codes_are_unique_and_survive() {
        let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for r in Reason::ALL {
            assert_eq!(Reason::from_number(*r as u8), Some(*r));
        }
        assert_eq!(Reason::from_number(0), None);
    }
}
