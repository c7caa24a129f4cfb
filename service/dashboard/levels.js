/** The levels of the intervals that the dashboard requests and shows, 0–100, the narrowest first. */
export const LEVELS = [80, 95];
