//! Whose requests fill the pool: an account per connection or member, and one per client key.
//!
//! Accounts are ranked by the bit length of what they use, so that the heaviest one is known at once, to a factor of two:
//! adding and removing a request takes constant time. Of accounts with one rank the one that has had it longest is first.

use super::pool::Entry;
use super::slab::{Link, Linked, List, Slab, UNLINKED};

/// Link number of an entry in the account of its connection or member.
pub const BY_SOURCE: usize = 2;
/// Link number of an entry in the account of its client key.
pub const BY_KEY: usize = 3;

/// Ranks of usage are bit lengths; the last one is for accounts whose owner is gone.
const RANKS: usize = 64;
const GONE: usize = RANKS - 1;

pub struct Account<const LINK: usize> {
    /// What its requests weigh.
    usage: u64,
    /// So much of it does not count: nobody can take it away.
    guaranteed: u64,
    /// Connections or sessions that add to it.
    users: u32,
    rank: usize,
    link: Link,
    /// Its requests, in the order in which they were added.
    entries: List<LINK>,
}

impl<const LINK: usize> Linked for Account<LINK> {
    fn link(&self, _: usize) -> &Link {
        &self.link
    }

    fn link_mut(&mut self, _: usize) -> &mut Link {
        &mut self.link
    }
}

impl<const LINK: usize> Account<LINK> {
    fn rank_with(&self, more: u64) -> usize {
        if self.users == 0 {
            return GONE;
        }
        let counted = (self.usage + more).saturating_sub(self.guaranteed);
        ((u64::BITS - counted.leading_zeros()) as usize).min(GONE - 1)
    }
}

/// Accounts over the entries' link number `LINK`.
pub struct Shares<const LINK: usize> {
    accounts: Slab<Account<LINK>>,
    ranked: [List<0>; RANKS],
    /// A bit for each rank that some account has.
    occupied: u64,
}

impl<const LINK: usize> Default for Shares<LINK> {
    fn default() -> Self {
        Shares { accounts: Slab::default(), ranked: [List::default(); RANKS], occupied: 0 }
    }
}

impl<const LINK: usize> Shares<LINK> {
    /// A new account with one user.
    pub fn open(&mut self, guaranteed: u64) -> u32 {
        let account = Account { usage: 0, guaranteed, users: 1, rank: 0, link: UNLINKED, entries: List::default() };
        let account = self.accounts.insert(account);
        self.enter_rank(account, 0);
        account
    }

    /// One more user of an account.
    pub fn join(&mut self, account: u32) {
        self.accounts[account].users += 1;
    }

    /// One user less; without any the account lasts as long as its requests. Returns whether it is at its end.
    pub fn leave(&mut self, account: u32) -> bool {
        self.accounts[account].users -= 1;
        self.settle(account)
    }

    /// Adds an entry to an account.
    pub fn add(&mut self, account: u32, entries: &mut Slab<Entry>, slot: u32, weight: u64) {
        let state = &mut self.accounts[account];
        state.usage += weight;
        state.entries.push_back(entries, slot);
        self.settle(account);
    }

    /// Takes an entry out of an account. Returns whether that is at its end.
    pub fn remove(&mut self, account: u32, entries: &mut Slab<Entry>, slot: u32, weight: u64) -> bool {
        let state = &mut self.accounts[account];
        state.usage -= weight;
        state.entries.remove(entries, slot);
        self.settle(account)
    }

    /// The rank that an account would have with so much more.
    pub fn rank_with(&self, account: u32, more: u64) -> usize {
        self.accounts[account].rank_with(more)
    }

    /// Whether so much more is within what the account is guaranteed.
    pub fn is_guaranteed(&self, account: u32, more: u64) -> bool {
        let state = &self.accounts[account];
        state.usage + more <= state.guaranteed
    }

    /// The highest rank, and the entries of the first account that has it; none if nobody uses more than is guaranteed.
    pub fn heaviest(&self) -> Option<(usize, List<LINK>)> {
        let rank = (u64::BITS - 1).checked_sub(self.occupied.leading_zeros())? as usize;
        // Whoever has rank 0 uses nothing, or no more than is guaranteed.
        (rank > 0).then(|| (rank, self.accounts[self.ranked[rank].head].entries))
    }

    /// Entries in all accounts; each account's rank and place are checked on the way.
    #[cfg(test)]
    pub fn entries(&self) -> u32 {
        let mut count = 0;
        for rank in 0..RANKS {
            let accounts = self.ranked[rank].slots(&self.accounts);
            assert_eq!(self.occupied >> rank & 1 == 1, !accounts.is_empty());
            for account in accounts.into_iter().map(|account| &self.accounts[account]) {
                assert_eq!((account.rank, account.rank_with(0)), (rank, rank));
                assert_eq!(account.usage == 0, account.entries.is_empty());
                count += account.entries.len;
            }
        }
        count
    }

    fn settle(&mut self, account: u32) -> bool {
        let state = &self.accounts[account];
        let (before, now) = (state.rank, state.rank_with(0));
        let ended = state.users == 0 && state.usage == 0;
        if ended {
            self.leave_rank(account, before);
            self.accounts.remove(account);
        } else if before != now {
            self.leave_rank(account, before);
            self.enter_rank(account, now);
        }
        ended
    }

    fn enter_rank(&mut self, account: u32, rank: usize) {
        self.accounts[account].rank = rank;
        self.ranked[rank].push_back(&mut self.accounts, account);
        self.occupied |= 1 << rank;
    }

    fn leave_rank(&mut self, account: u32, rank: usize) {
        self.ranked[rank].remove(&mut self.accounts, account);
        if self.ranked[rank].is_empty() {
            self.occupied &= !(1 << rank);
        }
    }
}
