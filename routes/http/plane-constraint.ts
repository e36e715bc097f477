/**
 * Lets the router tell the planes apart: every route belongs to one of them, and a request only sees the routes of its
 * own. Knows no routes.
 */
import type { IncomingMessage } from "node:http";
import type { FastifyInstance, FastifyRequest, FastifyServerOptions } from "fastify";
import { DomainError } from "../../src/errors.ts";
import { type DataPlaneTarget, type Plane, planeOf } from "./plane.ts";

/** Decided once per request: the router asks first, hooks and handlers later. */
const decided = new WeakMap<IncomingMessage, Plane>();

/** Which plane a request belongs to. */
export function planeOfRequest(raw: IncomingMessage): Plane {
  const known = decided.get(raw);
  if (known) return known;
  const plane = planeOf(raw);
  decided.set(raw, plane);
  return plane;
}

/** Which sandbox a data-plane request means. Only for handlers of the data plane. */
export function targetOf(request: FastifyRequest): DataPlaneTarget {
  const plane = planeOfRequest(request.raw);
  if (plane.plane !== "data")
    throw new DomainError("internal", `a ${plane.plane} request reached a data-plane handler`);
  return plane.target;
}

/** find-my-way's type, by the only name that fastify gives it. */
type RouterConstraint = NonNullable<NonNullable<FastifyServerOptions["routerOptions"]>["constraints"]>[string];
type RouteHandler = Parameters<ReturnType<RouterConstraint["storage"]>["set"]>[1];

/** The router's constraint `plane`. Without a plane of its own a route would be seen by no request. */
export const planeConstraint: RouterConstraint = {
  name: "plane",
  storage: () => {
    const handlers = new Map<string, RouteHandler>();
    return {
      get: (plane) => handlers.get(plane) ?? null,
      set: (plane, handler) => {
        handlers.set(plane, handler);
      },
    };
  },
  deriveConstraint: (raw) => planeOfRequest(raw as IncomingMessage).plane,
  mustMatchWhenDerived: true,
};

/** Puts every route that `app` and its plugins register from now on onto `plane`. */
export function routesBelongTo(app: FastifyInstance, plane: "control" | "data"): void {
  app.addHook("onRoute", (route) => {
    route.constraints = { ...route.constraints, plane };
  });
}
