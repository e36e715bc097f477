/** What sandboxes have whose client asked for nothing special. */
export const openIngress = { allowPublicTraffic: true, maskRequestHost: null } as const;
