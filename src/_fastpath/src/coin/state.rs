//! The coins and who owns them.
//!
//! A coin refers to its owner's record by slot, so spending hashes no address. An owner's coins hang on lists through the
//! coins themselves: on one list while they are few, else on one list for each prefix of their ids, more prefixes the more
//! coins there are. So a transaction allocates nothing and touches few cache lines, and a COINS query, which answers in the
//! order of the ids, costs what it lists and not what its owner has.
//!
//! What a snapshot needs (coins, addresses) is apart from what changes while a coin lives (links, accounts): so it can be
//! captured, and little of it is copied afterwards.

use super::table::{Captured, Key, Keyed, Table, NONE};

/// Most coins of one owner on a single list. A query collects and sorts them: as much work as a full answer.
const MOST_ON_ONE_LIST: u32 = 1024;
/// Coins on a list, on average, when an owner's lists are divided anew (by four each time).
const DIVIDE_ABOVE: u32 = 128;
/// Coins and owners the tables have room for from the start.
const EXPECTED_COINS: usize = 1 << 16;
const EXPECTED_OWNERS: usize = 1 << 12;

#[derive(Clone, Copy, Default)]
pub struct Coin {
    pub id: Key,
    pub value: u64,
    owner: u32,
}

/// The neighbours of a coin on its owner's list.
#[derive(Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

const UNLINKED: Links = Links { previous: NONE, next: NONE };

#[derive(Clone, Copy, Default)]
struct Owner {
    address: Key,
}

/// What an owner has.
#[derive(Default)]
struct Account {
    amount: u128,
    coins: u32,
    /// First coin of the list while there is one.
    first: u32,
    /// First coins of the lists by the leading `prefix_bits` of the ids, or empty.
    firsts: Vec<u32>,
    prefix_bits: u32,
}

impl Account {
    /// Where the list begins that the coin `id` is on.
    fn head(&mut self, id: &Key) -> &mut u32 {
        match self.prefix_bits {
            0 => &mut self.first,
            _ => {
                let list = self.list_of(id);
                &mut self.firsts[list]
            }
        }
    }

    /// Which of the lists the coin `id` is on, or would be on.
    fn list_of(&self, id: &Key) -> usize {
        match self.prefix_bits {
            0 => 0,
            bits => (prefix(id) >> (64 - bits)) as usize,
        }
    }

    fn heads(&self) -> &[u32] {
        match self.prefix_bits {
            0 => std::slice::from_ref(&self.first),
            _ => &self.firsts,
        }
    }

    fn is_crowded(&self) -> bool {
        self.coins > MOST_ON_ONE_LIST && u64::from(self.coins) > u64::from(DIVIDE_ABOVE) << self.prefix_bits
    }
}

/// The first eight bytes of an id, as a number that sorts as they do.
fn prefix(id: &Key) -> u64 {
    u64::from_be_bytes(*id.first_chunk().expect("an id has 32 bytes"))
}

impl Keyed for Coin {
    fn key(&self) -> &Key {
        &self.id
    }
}

impl Keyed for Owner {
    fn key(&self) -> &Key {
        &self.address
    }
}

pub struct State {
    coins: Table<Coin>,
    /// By the slot of the coin.
    links: Vec<Links>,
    owners: Table<Owner>,
    /// By the slot of the owner.
    accounts: Vec<Account>,
    /// Sum of all values ever minted.
    pub minted: u128,
}

/// The coins as they were at a moment.
pub struct CapturedState {
    coins: Captured<Coin>,
    owners: Captured<Owner>,
    pub minted: u128,
}

impl CapturedState {
    pub fn coins(&self) -> usize {
        self.coins.len()
    }

    /// `(id, address, value)` of all coins, in the order of the ids.
    pub fn sorted(&self) -> impl Iterator<Item = (&Key, &Key, u64)> {
        // Sorting by the ids' prefixes, kept beside the slots, seldom touches the coins themselves.
        let id = |slot: u32| &self.coins.get(slot).id;
        let mut coins: Vec<(u64, u32)> = Vec::with_capacity(self.coins());
        coins.extend(self.coins.slots().map(|slot| (prefix(id(slot)), slot)));
        coins.sort_unstable_by(|one, other| one.0.cmp(&other.0).then_with(|| id(one.1).cmp(id(other.1))));
        coins.into_iter().map(|(_, slot)| {
            let coin = self.coins.get(slot);
            (&coin.id, &self.owners.get(coin.owner).address, coin.value)
        })
    }
}

impl State {
    /// An empty state with room for `coins` coins, and some at least.
    pub fn with_capacity(coins: usize) -> Self {
        State {
            coins: Table::with_capacity(coins.max(EXPECTED_COINS)),
            links: Vec::with_capacity(coins.max(EXPECTED_COINS)),
            owners: Table::with_capacity(EXPECTED_OWNERS),
            accounts: Vec::with_capacity(EXPECTED_OWNERS),
            minted: 0,
        }
    }

    pub fn coins(&self) -> usize {
        self.coins.len()
    }

    /// Added up coin by coin, so that comparing it with `minted` checks something.
    pub fn supply(&self) -> u128 {
        self.coins.slots().map(|slot| u128::from(self.coin(slot).value)).sum()
    }

    /// Slots and buckets in use or kept for reuse: what memory follows.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        self.coins.allocated() + self.owners.allocated()
    }

    /// Whether `count` more coins have a slot each. (They have until memory holds four thousand million.)
    pub fn has_room_for(&self, count: usize) -> bool {
        self.coins.len() + count < NONE as usize
    }

    pub fn find(&self, id: &Key) -> Option<u32> {
        self.coins.find(id)
    }

    pub fn coin(&self, slot: u32) -> &Coin {
        self.coins.get(slot)
    }

    pub fn address(&self, coin: &Coin) -> &Key {
        &self.owners.get(coin.owner).address
    }

    /// The coins as they are now: a moment's work, whatever there are.
    pub fn capture(&self) -> CapturedState {
        CapturedState { coins: self.coins.capture(), owners: self.owners.capture(), minted: self.minted }
    }

    /// Add a coin whose id is not in the state.
    pub fn add(&mut self, id: &Key, address: &Key, value: u64) {
        let owner = match self.owners.find(address) {
            Some(owner) => owner,
            None => self.add_owner(address),
        };
        let slot = self.coins.insert(Coin { id: *id, value, owner });
        if slot as usize == self.links.len() {
            self.links.push(UNLINKED);
        }
        let account = &mut self.accounts[owner as usize];
        account.amount += u128::from(value);
        account.coins += 1;
        let crowded = account.is_crowded();
        self.link(slot);
        if crowded {
            self.divide(owner);
        }
    }

    fn add_owner(&mut self, address: &Key) -> u32 {
        let owner = self.owners.insert(Owner { address: *address });
        let account = Account { first: NONE, ..Account::default() };
        match self.accounts.get_mut(owner as usize) {
            Some(place) => *place = account,
            None => self.accounts.push(account),
        }
        owner
    }

    /// Take a coin out.
    pub fn remove(&mut self, slot: u32) {
        let coin = self.coins.remove(slot);
        let account = &mut self.accounts[coin.owner as usize];
        account.amount -= u128::from(coin.value);
        account.coins -= 1;
        if account.coins == 0 {
            account.firsts = Vec::new();
            self.owners.remove(coin.owner);
            return;
        }
        let Links { previous, next } = self.links[slot as usize];
        match previous {
            NONE => *account.head(&coin.id) = next,
            previous => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
    }

    /// `(sum, number of coins)` of an address.
    pub fn balance(&self, address: &Key) -> (u128, u64) {
        match self.owners.find(address) {
            Some(owner) => {
                let account = &self.accounts[owner as usize];
                (account.amount, u64::from(account.coins))
            }
            None => (0, 0),
        }
    }

    /// The first `most` coins of an address in the order of their ids, or the first of those after the id `after`:
    /// `(id, value)`.
    pub fn list(&self, address: &Key, most: usize, after: Option<&Key>) -> Vec<(Key, u64)> {
        let Some(owner) = self.owners.find(address) else {
            return Vec::new();
        };
        let account = &self.accounts[owner as usize];
        let mut coins: Vec<(Key, u64)> = Vec::new();
        for first in &account.heads()[after.map_or(0, |id| account.list_of(id))..] {
            let sorted = coins.len();
            let listed = self.listed(*first).map(|slot| (self.coin(slot).id, self.coin(slot).value));
            coins.extend(listed.filter(|(id, _)| after.is_none_or(|after| id > after)));
            coins[sorted..].sort_unstable();
            if coins.len() >= most {
                break;
            }
        }
        coins.truncate(most);
        coins
    }

    /// The slots on the list that begins at `first`.
    fn listed(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let present = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(present(first), move |slot| present(self.links[*slot as usize].next))
    }

    /// Put a coin at the head of its list.
    fn link(&mut self, slot: u32) {
        let coin = self.coins.get(slot);
        let next = std::mem::replace(self.accounts[coin.owner as usize].head(&coin.id), slot);
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.links[slot as usize] = Links { previous: NONE, next };
    }

    /// Divide an owner's lists into four times as many (sixteen times, the first time).
    fn divide(&mut self, owner: u32) {
        let heads = self.accounts[owner as usize].heads();
        let slots: Vec<u32> = heads.iter().flat_map(|first| self.listed(*first)).collect();
        let account = &mut self.accounts[owner as usize];
        account.prefix_bits += if account.prefix_bits == 0 { 4 } else { 2 };
        account.firsts = vec![NONE; 1 << account.prefix_bits];
        for slot in slots {
            self.link(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Key {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    /// Adds and spends coins of few owners at random, on both sides of the list's limit, against a plain list.
    #[test]
    fn owners_lists_agree_with_a_plain_list_of_coins() {
        let mut state = State::with_capacity(0);
        let mut model: Vec<(Key, Key, u64)> = Vec::new();
        let mut random = 7u64;
        for step in 0..60_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let growing = step % 20_000 < 14_000;
            if model.is_empty() || (random >> 40) % 10 < if growing { 7 } else { 2 } {
                let coin = (key(step), key((random >> 33) % 2), step + 1);
                state.add(&coin.0, &coin.1, coin.2);
                model.push(coin);
            } else {
                let coin = model.swap_remove((random >> 33) as usize % model.len());
                let slot = state.find(&coin.0).unwrap();
                assert_eq!((state.coin(slot).value, *state.address(state.coin(slot))), (coin.2, coin.1));
                state.remove(slot);
            }
            if step % 16 != 0 {
                continue;
            }
            let address = key((random >> 50) % 2);
            let mut owned: Vec<_> =
                model.iter().filter(|coin| coin.1 == address).map(|coin| (coin.0, coin.2)).collect();
            owned.sort_unstable();
            let amount: u128 = owned.iter().map(|coin| u128::from(coin.1)).sum();
            assert_eq!(state.balance(&address), (amount, owned.len() as u64));
            assert_eq!(state.list(&address, owned.len() + 1, None), owned);
            let after = key(random >> 20);
            let later: Vec<_> = owned.iter().copied().filter(|(id, _)| *id > after).take(30).collect();
            assert_eq!(state.list(&address, 30, Some(&after)), later);
            if let Some((last, _)) = later.last() {
                let page = owned.iter().copied().filter(|(id, _)| id > last).take(30).collect::<Vec<_>>();
                assert_eq!(state.list(&address, 30, Some(last)), page);
            }
            owned.truncate(30);
            assert_eq!(state.list(&address, 30, None), owned);
        }
        let divided = state.owners.slots().map(|owner| state.accounts[owner as usize].prefix_bits).max();
        assert!(divided > Some(4), "the test reaches owners whose lists were divided more than once");
        assert_eq!(state.coins(), model.len());
        assert_eq!(state.supply(), model.iter().map(|coin| u128::from(coin.2)).sum());
    }

    #[test]
    fn an_address_without_coins_leaves_no_record() {
        let mut state = State::with_capacity(0);
        for number in 0..100 {
            state.add(&key(number), &key(1_000 + number), 1);
            state.remove(state.find(&key(number)).unwrap());
        }
        assert_eq!((state.coins.len(), state.owners.len()), (0, 0));
    }
}
