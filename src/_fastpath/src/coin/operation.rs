//! The coin's operations: layout (`coin.pyi`) and the checks that need no state.
//!
//! Parsing borrows: an operation is a view into the request's bytes.

use super::table::Key;

pub const MINT: u8 = 1;
pub const SPEND: u8 = 2;
pub const BALANCE: u8 = 3;
pub const COINS: u8 = 4;

/// Longest memo, in bytes.
pub const MAX_MEMO_BYTES: usize = 512;
/// Most coins that one COINS query lists: bounds the reply (40 bytes each), which every session caches.
pub const MAX_LISTED: u16 = 1024;

/// Result codes. A rejection is an ordered result like any other and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Malformed = 1,
    NotAuthorised = 2,
    UnknownCoin = 3,
    NotOwner = 4,
    DuplicateInput = 5,
    Unbalanced = 6,
    Overflow = 7,
    ZeroAmount = 8,
    BadSignature = 9,
    BadAddress = 10,
    CoinExists = 11,
}

/// One operation, its fields still packed as they came.
#[derive(Debug, PartialEq)]
pub enum Operation<'a> {
    /// `values`: 8 bytes each.
    Mint {
        values: &'a [u8],
    },
    /// `inputs`: 32 bytes each; `outputs`: 40 bytes each, address and amount.
    Spend {
        inputs: &'a [u8],
        outputs: &'a [u8],
    },
    Balance {
        address: &'a Key,
    },
    /// Only coins whose ids come after `after`, if there is one.
    Coins {
        address: &'a Key,
        most: u16,
        after: Option<&'a Key>,
    },
}

impl<'a> Operation<'a> {
    /// Parse the whole of `bytes`; anything left over, out of bounds or of another kind is MALFORMED.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Code> {
        let mut rest = Cursor(bytes);
        let operation = match rest.byte()? {
            MINT => {
                let values = rest.list(8)?;
                rest.memo()?;
                Operation::Mint { values }
            }
            SPEND => {
                let inputs = rest.list(32)?;
                let outputs = rest.list(40)?;
                rest.memo()?;
                Operation::Spend { inputs, outputs }
            }
            BALANCE => Operation::Balance { address: key(rest.take(32)?) },
            COINS => {
                let address = key(rest.take(32)?);
                let most = rest.short()?;
                if most == 0 || most > MAX_LISTED {
                    return Err(Code::Malformed);
                }
                let after = (!rest.0.is_empty()).then(|| rest.take(32).map(key)).transpose()?;
                Operation::Coins { address, most, after }
            }
            _ => return Err(Code::Malformed),
        };
        match rest.0 {
            [] => Ok(operation),
            _ => Err(Code::Malformed),
        }
    }

    /// Every check that depends on the operation alone, in this order: ZERO_AMOUNT, BAD_ADDRESS, DUPLICATE_INPUT,
    /// OVERFLOW (amounts that add up to more than 64 bits).
    pub fn check(&self, scratch: &mut Vec<Key>) -> Result<(), Code> {
        match self {
            Operation::Mint { values } => {
                if amounts(values).any(|value| value == 0) {
                    return Err(Code::ZeroAmount);
                }
                sum(amounts(values))?;
            }
            Operation::Spend { inputs, outputs } => {
                if recipients(outputs).any(|(_, amount)| amount == 0) {
                    return Err(Code::ZeroAmount);
                }
                if recipients(outputs).any(|(address, _)| is_small_order(address)) {
                    return Err(Code::BadAddress);
                }
                if has_duplicate(inputs, scratch) {
                    return Err(Code::DuplicateInput);
                }
                sum(recipients(outputs).map(|(_, amount)| amount))?;
            }
            Operation::Balance { .. } | Operation::Coins { .. } => {}
        }
        Ok(())
    }
}

/// The values of a MINT.
pub fn amounts(values: &[u8]) -> impl Iterator<Item = u64> + '_ {
    values.chunks_exact(8).map(amount)
}

/// The input coin ids of a SPEND.
pub fn coin_ids(inputs: &[u8]) -> impl Iterator<Item = &Key> {
    inputs.chunks_exact(32).map(key)
}

/// The outputs of a SPEND: `(address, amount)`.
pub fn recipients(outputs: &[u8]) -> impl Iterator<Item = (&Key, u64)> {
    outputs.chunks_exact(40).map(|output| (key(&output[..32]), amount(&output[32..])))
}

/// The exact sum, or OVERFLOW beyond 64 bits.
pub fn sum(mut amounts: impl Iterator<Item = u64>) -> Result<u64, Code> {
    amounts.try_fold(0u64, u64::checked_add).ok_or(Code::Overflow)
}

fn key(bytes: &[u8]) -> &Key {
    bytes.try_into().expect("a slice of 32 bytes")
}

fn amount(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a slice of 8 bytes"))
}

fn has_duplicate(inputs: &[u8], scratch: &mut Vec<Key>) -> bool {
    if inputs.len() == 32 {
        return false;
    }
    scratch.clear();
    scratch.extend(coin_ids(inputs));
    scratch.sort_unstable();
    scratch.windows(2).any(|pair| pair[0] == pair[1])
}

/// The `y` coordinates (sign bit cleared) of the encodings of small-order points that ZIP-215 accepts: 0, 1, -1, the two
/// of order 8, and the non-canonical p (0 again) and p + 1 (1 again).
const SMALL_ORDER: [Key; 7] = [
    [0; 32],
    with_ends(1, 0, 0),
    with_ends(0xec, 0xff, 0x7f),
    with_ends(0xed, 0xff, 0x7f),
    with_ends(0xee, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

const fn with_ends(first: u8, middle: u8, last: u8) -> Key {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Whether `address` encodes a point of small order: under ZIP-215 anybody can make a signature for such a key, so coins
/// sent there would be anybody's. Comparing with the fourteen encodings needs no curve arithmetic. (Bytes that encode no
/// point at all are let through: nobody can spend from there, the sender has burnt the coin.)
pub fn is_small_order(address: &Key) -> bool {
    let mut y = *address;
    y[31] &= 0x7f;
    SMALL_ORDER.contains(&y)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], Code> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or(Code::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Code> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<u16, Code> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// A count byte, at least 1, and that many items.
    fn list(&mut self, item_size: usize) -> Result<&'a [u8], Code> {
        match self.byte()? as usize {
            0 => Err(Code::Malformed),
            count => self.take(count * item_size),
        }
    }

    fn memo(&mut self) -> Result<(), Code> {
        let size = self.short()? as usize;
        if size > MAX_MEMO_BYTES {
            return Err(Code::Malformed);
        }
        self.take(size).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(inputs: &[Key], outputs: &[(Key, u64)], memo: &[u8]) -> Vec<u8> {
        let mut bytes = vec![SPEND, inputs.len() as u8];
        bytes.extend(inputs.iter().flatten());
        bytes.push(outputs.len() as u8);
        for (address, amount) in outputs {
            bytes.extend(address);
            bytes.extend(amount.to_le_bytes());
        }
        bytes.extend((memo.len() as u16).to_le_bytes());
        bytes.extend(memo);
        bytes
    }

    fn code(bytes: &[u8]) -> Result<(), Code> {
        Operation::parse(bytes).and_then(|operation| operation.check(&mut Vec::new()))
    }

    #[test]
    fn every_prefix_and_every_longer_operation_is_malformed() {
        let good = spend(&[[1; 32], [2; 32]], &[([3; 32], 4), ([5; 32], 6)], b"memo");
        assert_eq!(code(&good), Ok(()));
        for cut in 0..good.len() {
            assert_eq!(code(&good[..cut]), Err(Code::Malformed), "cut at {cut}");
        }
        assert_eq!(code(&[&good[..], &[0]].concat()), Err(Code::Malformed));
    }

    #[test]
    fn stateless_checks_give_their_codes() {
        assert_eq!(code(&spend(&[[1; 32]], &[([3; 32], 0)], b"")), Err(Code::ZeroAmount));
        assert_eq!(code(&spend(&[[1; 32]], &[([0; 32], 1)], b"")), Err(Code::BadAddress));
        assert_eq!(code(&spend(&[[1; 32], [1; 32]], &[([3; 32], 1)], b"")), Err(Code::DuplicateInput));
        assert_eq!(code(&spend(&[[1; 32]], &[([3; 32], u64::MAX), ([3; 32], 1)], b"")), Err(Code::Overflow));
        assert_eq!(code(&spend(&[[1; 32]], &[([3; 32], 1)], &[0; 512])), Ok(()));
        assert_eq!(code(&spend(&[[1; 32]], &[([3; 32], 1)], &[0; 513])), Err(Code::Malformed));
    }

    /// The table of encodings against the curve: all of small order are in it, and nothing else of the neighbourhood.
    #[test]
    fn small_order_encodings_are_those_of_the_curve() {
        let mut candidates: Vec<Key> = SMALL_ORDER.to_vec();
        candidates.extend((0..32u8).map(|y| with_ends(y, 0, 0)));
        candidates.extend((0xe0..=0xffu8).map(|y| with_ends(y, 0xff, 0x7f)));
        candidates.extend((0..1000u32).map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes()));
        let mut found = std::collections::BTreeSet::new();
        for mut address in candidates {
            for sign in [0, 0x80] {
                address[31] = address[31] & 0x7f | sign;
                // `verify::is_small_order` also says so of bytes that are no point.
                let is_point = crate::verify::ParsedKey::new(&address).is_some();
                assert_eq!(
                    is_small_order(&address),
                    is_point && crate::verify::is_small_order(&address),
                    "{address:?}"
                );
                if is_small_order(&address) {
                    found.insert(address);
                }
            }
        }
        assert_eq!(found.len(), 14);
    }
}
