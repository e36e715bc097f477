/**
 * The router's constraint `plane`: every route belongs to one plane, and a request sees only the routes of its own.
 * This file knows no routes.
 */
import type { IncomingMessage } from "node:http";
import type { FastifyInstance, FastifyRequest, FastifyServerOptions } from "fastify";
import { DomainError } from "../../src/errors.ts";
import { type DataPlaneTarget, type Plane, planeOf } from "./plane.ts";

/** The plane is decided once per request. The router asks first, hooks and handlers later. */
const decided = new WeakMap<IncomingMessage, Plane>();

/** The plane that a request belongs to. */
export function planeOfRequest(raw: IncomingMessage): Plane {
  const known = decided.get(raw);
  if (known) return known;
  const plane = planeOf(raw);
  decided.set(raw, plane);
  return plane;
}

/** The target of a data-plane request. Only handlers of the data plane may ask. */
export function targetOf(request: FastifyRequest): DataPlaneTarget {
  const plane = planeOfRequest(request.raw);
  if (plane.plane !== "data")
    throw new DomainError("internal", `a ${plane.plane} request reached a data-plane handler`);
  return plane.target;
}

/** find-my-way's type, under the only name that Fastify exports it by. */
type RouterConstraint = NonNullable<NonNullable<FastifyServerOptions["routerOptions"]>["constraints"]>[string];
type RouteHandler = Parameters<ReturnType<RouterConstraint["storage"]>["set"]>[1];

/** The constraint. No request would see a route without a plane. */
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

/** Puts every route that `app` and its plugins register after this call onto `plane`. */
export function routesBelongTo(app: FastifyInstance, plane: "control" | "data"): void {
  app.addHook("onRoute", (route) => {
    route.constraints = { ...route.constraints, plane };
  });
}
