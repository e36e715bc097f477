/** The ingress of a sandbox whose client asked for nothing special. */
export const openIngress = { allowPublicTraffic: true, maskRequestHost: null } as const;
